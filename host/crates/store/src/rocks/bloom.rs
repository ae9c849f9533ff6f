//! Which identifiers may be in the store: new ones, as most are while a store grows, are not looked up.
//!
//! A blocked Bloom filter (Putze, Sanders and Singler, 2007) with 16 bits for each identifier; one in five hundred new ones is
//! looked up all the same. Blocks are in the order of hashes, so that sorted hashes pass through memory in order.

use sluicebox_model::IdentifierHash;

/// Identifiers that the first filter has room for; each filter after it has room for twice as many.
const FIRST: usize = 1 << 20;
const BITS: usize = 16;
/// Bits of a block that an identifier sets.
const BITS_SET: u32 = 6;

/// Bits that are in one line of the processor's cache.
type Block = [u64; 8];

/// The identifiers that were put into a store since it was empty.
#[derive(Default)]
pub(crate) struct KnownIdentifiers {
    filters: Vec<Filter>,
}

struct Filter {
    blocks: Vec<Block>,
    /// How many more identifiers it has room for.
    room: usize,
}

impl KnownIdentifiers {
    pub(crate) fn insert(&mut self, hash: IdentifierHash) {
        if self.filters.last().is_none_or(|last| last.room == 0) {
            let room = FIRST << self.filters.len();
            self.filters.push(Filter { blocks: vec![[0; 8]; room * BITS / 512], room });
        }
        if let Some(last) = self.filters.last_mut() {
            last.room -= 1;
            let block = last.place(hash);
            if let Some(block) = last.blocks.get_mut(block) {
                block.iter_mut().zip(bits(hash)).for_each(|(word, bits)| *word |= bits);
            }
        }
    }

    /// Whether an identifier may have been inserted; `false` is certain.
    pub(crate) fn may_hold(&self, hash: IdentifierHash) -> bool {
        self.filters.iter().any(|filter| filter.may_hold(hash))
    }
}

impl Filter {
    /// The block of a hash.
    fn place(&self, hash: IdentifierHash) -> usize {
        let share = u128::from((hash.0 >> 32) as u64) * self.blocks.len() as u128;
        usize::try_from(share >> 64).unwrap_or(usize::MAX)
    }

    fn may_hold(&self, hash: IdentifierHash) -> bool {
        let block = self.blocks.get(self.place(hash));
        block.is_some_and(|block| block.iter().zip(bits(hash)).all(|(word, bits)| word & bits == bits))
    }
}

/// The bits that a hash sets in its block. They come from other bits of the hash than the block does.
fn bits(hash: IdentifierHash) -> Block {
    let mut bits = [0; 8];
    for bit in 0..BITS_SET {
        let bit = (hash.0 >> (bit * 9)) as usize & 511;
        if let Some(word) = bits.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use sluicebox_model::IdentifierHasher;

    use super::*;

    #[test]
    fn what_was_inserted_is_known_and_little_else() {
        let hasher = IdentifierHasher::new(&[7; 16]);
        let hash = |number: u32| hasher.hash(&[[0, 0, 0, 1], [0, 0, 0, 7], number.to_be_bytes()].concat());
        let mut known = KnownIdentifiers::default();
        assert!(!known.may_hold(hash(0)));
        let held = 3 * FIRST as u32 + 1;
        (0..held).for_each(|number| known.insert(hash(number)));
        assert_eq!(known.filters.len(), 3);
        assert!((0..held).all(|number| known.may_hold(hash(number))));
        let wrong = (held..held + 1_000_000).filter(|number| known.may_hold(hash(*number))).count();
        assert!(wrong < 10_000, "{wrong}");
    }
}
