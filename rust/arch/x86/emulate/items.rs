// SPDX-License-Identifier: GPL-2.0

//! What a port gave ahead of the reads of a repeated INS.

/// The size in bytes of what [`Items`] holds: 64 doublewords.
pub(super) const ITEMS: usize = 256;

/// What a port gave ahead of the reads of a repeated INS: one exit brings them all.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) bytes: [u8; ITEMS],
    pub(super) port: u16,
    pub(super) size: usize,
    pub(super) len: usize,
    pub(super) next: usize,
}

impl Default for Items {
    fn default() -> Self {
        Self {
            bytes: [0; ITEMS],
            port: 0,
            size: 0,
            len: 0,
            next: 0,
        }
    }
}

impl Items {
    /// Returns the next item, if it is of that port and size.
    pub(super) fn take(&mut self, port: u16, size: usize) -> Option<[u8; 8]> {
        if self.next >= self.len || self.port != port || self.size != size {
            return None;
        }
        let mut data = [0; 8];
        let item = self.bytes.get(self.next..)?.get(..size)?;
        data.get_mut(..size)?.copy_from_slice(item);
        self.next += size;
        Some(data)
    }
}
