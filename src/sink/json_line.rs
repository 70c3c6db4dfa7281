//! Fields and values to the JSON text of a line.

use std::io::Write;

/// Writes a value that serde knows; a `Vec` takes every byte.
fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, value).expect("a Vec takes every byte, and keys are strings");
}

/// Starts the next field of an object; its `{` or its last field is already in `out`.
pub(super) fn write_key(name: &str, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_json(name, out);
    out.push(b':');
}

/// Writes the next field of an object.
pub(super) fn field<T: serde::Serialize + ?Sized>(name: &str, value: &T, out: &mut Vec<u8>) {
    write_key(name, out);
    write_json(value, out);
}

/// Writes a buffered line and empties the buffer.
pub(super) fn end_line(buffer: &mut Vec<u8>, out: &mut dyn Write) -> std::io::Result<()> {
    buffer.extend_from_slice(b"}\n");
    out.write_all(buffer)?;
    buffer.clear();
    Ok(())
}
