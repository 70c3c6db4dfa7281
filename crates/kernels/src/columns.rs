//! Rows that several threads write, each its own columns.

#![expect(
    unsafe_code,
    reason = "a matrix cannot be borrowed by columns, and values that nobody has written yet not at all"
)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// A place for (rows, width) values, row-major.
pub(super) struct Columns<'a, T = f32> {
    start: *mut T,
    rows: usize,
    width: usize,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: it is nothing but a way to write values, and `put` says which thread may write which.
unsafe impl<T: Send> Sync for Columns<'_, T> {}

impl<'a, T: Copy> Columns<'a, T> {
    /// Values that are overwritten.
    pub(super) fn of(values: &'a mut [T], width: usize) -> Self {
        Self {
            start: values.as_mut_ptr(),
            rows: values.len() / width,
            width,
            values: PhantomData,
        }
    }

    /// Memory for so many rows, in which nothing was written yet.
    fn of_memory(memory: &'a mut [MaybeUninit<T>], width: usize) -> Self {
        Self {
            start: memory.as_mut_ptr().cast(),
            rows: memory.len() / width,
            width,
            values: PhantomData,
        }
    }

    /// How many rows there are.
    #[inline]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    #[inline]
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Writes values of a row, the first of them into column number `first`.
    ///
    /// # Panics
    ///
    /// Where the row has no such columns.
    ///
    /// # Safety
    ///
    /// No other thread may write any of them meanwhile.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of a multiversion body")]
    pub(super) unsafe fn put(&self, row: usize, first: usize, values: &[T]) {
        assert!(row < self.rows && first <= self.width && values.len() <= self.width - first);
        // SAFETY: the columns lie within the memory that was borrowed for as long as `self` lives, and no other thread
        // writes them.
        unsafe {
            let start = self.start.add(row * self.width + first);
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
    }
}

/// New rows, without the zeros that would be overwritten.
///
/// # Safety
///
/// `write` must put every value of every row.
pub(super) unsafe fn written(
    rows: usize,
    width: usize,
    write: impl FnOnce(&Columns<'_>),
) -> Vec<f32> {
    let count = rows * width;
    let mut values = Vec::with_capacity(count);
    write(&Columns::of_memory(
        &mut values.spare_capacity_mut()[..count],
        width,
    ));
    // SAFETY: there is room for so many, and the caller knows that all were written.
    unsafe {
        values.set_len(count);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_where_its_column_is() {
        let put = |columns: &Columns<'_>| {
            for row in 0..3 {
                // SAFETY: there is one thread.
                unsafe {
                    columns.put(row, 2, &[row as f32, 8.0, 9.0]);
                    columns.put(row, 0, &[6.0, 7.0]);
                }
            }
        };
        let want: Vec<f32> = (0..3)
            .flat_map(|row| [6.0, 7.0, row as f32, 8.0, 9.0])
            .collect();
        let mut values = [0.0; 15];
        put(&Columns::of(&mut values, 5));
        assert_eq!(values, *want);
        // SAFETY: `put` puts all.
        assert_eq!(unsafe { written(3, 5, put) }, want);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn columns_beyond_the_last_are_refused() {
        let mut values = [0.0; 15];
        let columns = Columns::of(&mut values, 5);
        // SAFETY: there is one thread.
        unsafe { columns.put(0, 4, &[1.0, 2.0]) }
    }
}
