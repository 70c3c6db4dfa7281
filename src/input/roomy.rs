//! Templates whose values may nest deep, filled on threads with large stacks.
//!
//! Printing a value and freeing it both use recursion, so a deep value would overflow an ordinary stack and end the
//! process. The threads begin when the template is compiled: a machine that has no thread left then ends the run before
//! its first row, instead of failing rows that are good.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use minijinja::{Environment, Error, Value};

use super::tags::{Tags, words};

/// Bytes of tags whose values an ordinary stack has room for.
const SHORT: usize = 4096;

/// Words by which a template with short tags makes values that nest as deep as its steps allow.
const NESTING: [&str; 5] = ["set", "namespace", "macro", "recursive", "call"];

/// Bytes of such a stack. The system gives memory only for the part that is used.
const DEEP_STACK: usize = 512 << 20;

/// Whether a template may make values that nest deeper than an ordinary stack has room for.
pub(super) fn needs_room(template: &str) -> bool {
    let nests = |tag: &str| words(tag).iter().any(|word| NESTING.contains(word));
    let bytes: usize = Tags(template).map(|tag| tag.text.len()).sum();
    bytes > SHORT || Tags(template).any(|tag| nests(tag.text))
}

/// Fills the template of a name.
pub(super) fn fill(
    environment: &Environment<'_>,
    name: &str,
    columns: Value,
) -> Result<String, Error> {
    environment.get_template(name)?.render(columns)
}

type Filled = thread::Result<Result<String, Error>>;

/// The values of a row, and where the text goes.
type Order = (Value, Sender<Filled>);

/// Threads with large stacks; they end with it.
pub(super) struct Roomy {
    orders: Sender<Order>,
}

impl Roomy {
    /// Begins a thread for each of the threads that read rows. One is enough where the machine has no more.
    ///
    /// # Errors
    ///
    /// The system's, where it has not even one.
    pub(super) fn start(
        environment: &Arc<Environment<'static>>,
        name: &'static str,
    ) -> io::Result<Self> {
        let (orders, receiver) = unbounded();
        for number in 0..rayon::current_num_threads() {
            let (environment, receiver) = (Arc::clone(environment), receiver.clone());
            let begun = thread::Builder::new()
                .name("template".to_owned())
                .stack_size(DEEP_STACK)
                .spawn(move || serve(&environment, name, &receiver));
            match begun {
                Err(error) if number == 0 => return Err(error),
                Err(_) => break,
                Ok(_) => {}
            }
        }
        Ok(Self { orders })
    }

    /// Fills the template with the values of a row.
    pub(super) fn fill(&self, columns: Value) -> Result<String, Error> {
        let (reply, filled) = bounded(1);
        let sent = self.orders.send((columns, reply));
        sent.expect("the threads listen as long as they can be asked");
        let filled = filled.recv().expect("every order gets a reply");
        filled.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

fn serve(environment: &Environment<'_>, name: &str, orders: &Receiver<Order>) {
    for (columns, reply) in orders {
        let filled = catch_unwind(AssertUnwindSafe(|| fill(environment, name, columns)));
        // The row that asked waits for it.
        drop(reply.send(filled));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_and_the_bytes_of_tags_count() {
        let long = "x".repeat(SHORT + 1);
        for template in [
            "recall, basically: {{ setting }} {{ \"set\" }}".to_owned(),
            format!("{long}{{{{ a }}}}{{# set #}}"),
            "{% raw %}{% set x = 1 %}{% endraw %}".to_owned(),
        ] {
            assert!(!needs_room(&template), "{template:.60}");
        }
        for template in [
            "{% set x = [x] %}".to_owned(),
            "{%- macro f(x) %}{% endmacro %}".to_owned(),
            format!("{{{{ '{long}' }}}}"),
        ] {
            assert!(needs_room(&template), "{template:.60}");
        }
    }
}
