//! Large buffers, in large pages where that pays: where the system has them, memory is read a third faster.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Size and alignment of a large page on the machines there are; where it is another nothing is lost
/// but speed.
const LARGE_PAGE: usize = 2 << 20;

/// Numbers that are zero at first, in memory of their own.
pub struct Pages<T> {
    map: MmapMut,
    /// Bytes before the first number.
    start: usize,
    count: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// Takes memory for so many numbers, in large pages where they fill one.
    ///
    /// # Errors
    ///
    /// Where the system has no memory left.
    pub fn zeroed(count: usize) -> io::Result<Self> {
        let fills_one = count * size_of::<T>() >= LARGE_PAGE;
        Self::new(count, if fills_one { LARGE_PAGE } else { 0 })
    }

    /// Takes memory for so many numbers, in pages of the system's own choice: for numbers that are written soon and read a
    /// few times, because the first touch of a large page clears all of it.
    ///
    /// # Errors
    ///
    /// Where the system has no memory left.
    pub fn zeroed_in_small_pages(count: usize) -> io::Result<Self> {
        Self::new(count, 0)
    }

    /// With so many bytes to move the first number to a large page. What lies before it is never touched, and so takes no
    /// memory.
    fn new(count: usize, margin: usize) -> io::Result<Self> {
        let bytes = count * size_of::<T>();
        let map = MmapMut::map_anon((bytes + margin).max(1))?;
        let start = match margin {
            0 => 0,
            _ => map.as_ptr().align_offset(LARGE_PAGE).min(margin),
        };
        #[cfg(target_os = "linux")]
        if margin > 0 {
            // Advice may be refused, as by a kernel without large pages.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self {
            map,
            start,
            count,
            values: PhantomData,
        })
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[self.start..][..self.count * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[self.start..][..self.count * size_of::<T>()])
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_zero_and_can_be_written() {
        for count in [0, 1, 1000, LARGE_PAGE / 4, 3 * LARGE_PAGE / 4 + 5] {
            for new in [Pages::<f32>::zeroed, Pages::zeroed_in_small_pages] {
                let mut pages = new(count).unwrap();
                assert!(pages.len() == count && pages.iter().all(|&value| value == 0.0));
                pages.fill(1.5);
                assert!(pages.iter().all(|&value| value == 1.5));
            }
        }
    }

    #[test]
    fn large_buffers_begin_at_a_large_page() {
        let pages = Pages::<u8>::zeroed(LARGE_PAGE).unwrap();
        assert_eq!(pages.as_ptr().align_offset(LARGE_PAGE), 0);
    }
}
