//! Standard input to a file in the output folder, so that a resume can read it again.
//!
//! A thread of its own reads, because nothing interrupts the read of a stream on which nothing arrives. The thread that
//! waits for it looks for signals meanwhile, so that Ctrl-C works.

use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::error::InputError;
use crate::fsio::{self, FsError};
use crate::stop::StopFlag;

/// Bytes that are read at once.
const BLOCK_BYTES: usize = 64 << 10;

/// Time between two looks for a signal while the stream is silent.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What the reading thread sends; it hangs up at the end of the stream.
type Block = io::Result<Vec<u8>>;

/// A stream that is read to its end, unless a signal comes.
pub struct InputStream {
    blocks: Receiver<Block>,
    /// The first block, where it has been looked at.
    peeked: Option<Vec<u8>>,
    stop: StopFlag,
}

impl std::fmt::Debug for InputStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputStream").finish_non_exhaustive()
    }
}

impl InputStream {
    /// Begins to read. The thread that does so ends with the stream, or with the process.
    ///
    /// # Errors
    ///
    /// The system's, where it has no thread left.
    pub fn start(reader: impl Read + Send + 'static, stop: &StopFlag) -> io::Result<Self> {
        let (sender, blocks) = bounded(1);
        thread::Builder::new()
            .name("standard input".to_owned())
            .spawn(move || read_blocks(reader, &sender))?;
        Ok(Self {
            blocks,
            peeked: None,
            stop: stop.clone(),
        })
    }

    /// Whether the stream ends before its first byte.
    ///
    /// # Errors
    ///
    /// The stream's own; [`io::ErrorKind::Interrupted`], where a signal came.
    pub fn is_empty(&mut self) -> io::Result<bool> {
        if self.peeked.is_none() {
            self.peeked = self.next()?;
        }
        Ok(self.peeked.is_none())
    }

    /// Copies the stream to its end into a file, whose folder is made. The file has its name only once all is
    /// there.
    ///
    /// # Errors
    ///
    /// [`InputError::Copy`]; [`InputError::Interrupted`].
    pub fn copy_to(mut self, to: &Path) -> Result<(), InputError> {
        if let Some(folder) = to.parent() {
            fsio::create_dir_all(folder)
                .map_err(|cause| InputError::Copy(FsError::new("create", folder, cause)))?;
        }
        let copied = fsio::write_atomic(to, |out| {
            while let Some(block) = self.next()? {
                out.write_all(&block)?;
            }
            Ok(())
        });
        match copied {
            Err(_) if self.stop.is_requested() => Err(InputError::Interrupted),
            copied => copied.map(drop).map_err(InputError::Copy),
        }
    }

    /// The next bytes; `None` at the end. A signal that ends the writer at the other end ends the stream too: what
    /// came by then is not taken for the whole.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(block) = self.peeked.take() {
            return Ok(Some(block));
        }
        loop {
            let received = self.blocks.recv_timeout(LONGEST_WAIT);
            if self.stop.is_requested() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match received {
                Ok(block) => return block.map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Sends what a stream holds until it ends, fails, or no one listens any more.
fn read_blocks(mut reader: impl Read, sender: &Sender<Block>) {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let sent = match reader.read(&mut block) {
            Ok(0) => return,
            Ok(length) => sender.send(Ok(block[..length].to_vec())),
            // Nothing is lost: the read begins again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => sender.send(Err(error)),
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A stream that never gives anything, and never ends.
    struct Silent;

    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            loop {
                thread::park();
            }
        }
    }

    #[test]
    fn a_silent_stream_is_given_up_with_a_signal() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("input/stdin.jsonl");
        let looks = AtomicUsize::new(0);
        let stop = StopFlag::asking(move || looks.fetch_add(1, Ordering::Relaxed) > 0);
        let stream = InputStream::start(Silent, &stop).unwrap();
        let ended = stream.copy_to(&to);
        assert!(matches!(ended, Err(InputError::Interrupted)), "{ended:?}");
        assert_eq!(std::fs::read_dir(to.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_stream_that_was_looked_at_is_copied_whole() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("stdin.jsonl");
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES as u32 + 7).map(|at| at as u8).collect();
        let mut stream =
            InputStream::start(io::Cursor::new(bytes.clone()), &StopFlag::default()).unwrap();
        assert!(!stream.is_empty().unwrap());
        stream.copy_to(&to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
        let mut nothing = InputStream::start(io::empty(), &StopFlag::default()).unwrap();
        assert!(nothing.is_empty().unwrap());
    }
}
