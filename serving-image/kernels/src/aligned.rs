//! A buffer whose first element starts a cache line.

use std::fmt;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;
use pulp::bytemuck::{cast_slice, cast_slice_mut};

/// Bytes of a cache line, and of an AVX-512 register: a load that straddles two lines costs two.
const LINE: usize = 64;

/// Bytes from which on lasting memory has pages of its own.
const PAGES: usize = 1 << 16;

/// Zero-initialised 32-bit floats, the first at a multiple of 64 bytes.
pub struct Aligned {
    memory: Memory,
    start: usize,
    len: usize,
}

enum Memory {
    /// Longer than asked by up to a line.
    Heap(Vec<f32>),
    Pages(MmapMut),
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
            memory: Memory::Heap(buffer),
            len,
        }
    }

    /// `len` zeros that stay for as long as a model does. What is allocated and freed around them
    /// while it is loaded leaves no holes between them, which the heap would keep: 12 MiB for
    /// MiniLM.
    pub fn lasting(len: usize) -> Self {
        let bytes = len * size_of::<f32>();
        let pages = (bytes >= PAGES).then(|| MmapMut::map_anon(bytes));
        match pages {
            Some(Ok(pages)) => Self {
                memory: Memory::Pages(pages),
                start: 0,
                len,
            },
            _ => Self::zeros(len),
        }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let buffer = match &self.memory {
            Memory::Heap(buffer) => buffer,
            Memory::Pages(pages) => cast_slice(pages),
        };
        &buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        let buffer = match &mut self.memory {
            Memory::Heap(buffer) => buffer,
            Memory::Pages(pages) => cast_slice_mut(pages),
        };
        &mut buffer[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} aligned floats", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_memory_are_aligned_zeros_that_can_be_written() {
        for len in [0, 1, 16, 1000, PAGES / 4, PAGES + 3] {
            for mut memory in [Aligned::zeros(len), Aligned::lasting(len)] {
                assert_eq!(memory.len(), len);
                assert!(memory.iter().all(|number| number.to_bits() == 0));
                assert_eq!(memory.as_ptr().align_offset(LINE), 0);
                memory.fill(1.5);
                assert!(memory.iter().all(|number| *number > 1.0));
            }
        }
    }
}
