//! Which beam keeps which place when beams go on, so that as few caches as possible are copied: the copy of a long
//! cache costs more than the step.

use super::Fork;

/// Gives a place to each beam of `wants`, and the copies that are needed for it. `wants` names for each beam the place
/// whose cache it goes on from.
///
/// The first beam that wants a place keeps it. Every other beam gets a copy, in the lowest place that no beam keeps and
/// that is not in `taken`. A copy never writes to a place that another copy reads, so the copies may be made in any
/// order.
pub(super) fn assign(wants: &[usize], taken: Option<usize>) -> (Vec<usize>, Vec<Fork>) {
    let mut used: Vec<usize> = taken.into_iter().collect();
    let is_first = |at: usize| !wants[..at].contains(&wants[at]);
    used.extend(
        (0..wants.len())
            .filter(|&at| is_first(at))
            .map(|at| wants[at]),
    );
    let mut forks = Vec::new();
    let places = (0..wants.len()).map(|at| {
        let from = wants[at];
        if is_first(at) {
            return from;
        }
        let to = (0..used.len()).find(|place| !used.contains(place));
        let to = to.unwrap_or(used.len());
        used.push(to);
        forks.push(Fork { from, to });
        to
    });
    let places = places.collect();
    (places, forks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beam_that_alone_continues_its_parent_copies_nothing() {
        assert_eq!(assign(&[2, 0, 1], None), (vec![2, 0, 1], vec![]));
    }

    #[test]
    fn copies_go_to_places_that_nobody_keeps() {
        let fork = |from, to| Fork { from, to };
        let (places, forks) = assign(&[0, 0, 0], None);
        assert_eq!(
            (places, forks),
            (vec![0, 1, 2], vec![fork(0, 1), fork(0, 2)])
        );
        let (places, forks) = assign(&[3, 1, 3, 3], Some(0));
        assert_eq!(
            (places, forks),
            (vec![3, 1, 2, 4], vec![fork(3, 2), fork(3, 4)])
        );
    }
}
