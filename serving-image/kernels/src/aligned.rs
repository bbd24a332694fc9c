//! A buffer whose first element starts a cache line.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of an AVX-512 register: a load that straddles two lines costs two.
const LINE: usize = 64;

/// Zero-initialised 32-bit floats, the first at a multiple of 64 bytes.
pub struct Aligned {
    /// Longer than asked by up to a line.
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let spare = LINE / size_of::<f32>();
        let buffer = vec![0.0; len + spare];
        // `align_offset` may decline to answer; then the buffer is only slower.
        let start = buffer.as_ptr().align_offset(LINE);
        Self {
            start: if start <= spare { start } else { 0 },
            buffer,
            len,
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} aligned floats", self.len)
    }
}
