//! Which identifiers may be in the store, told from memory: whoever is new, as most are while a store grows, is not looked for in it.
//!
//! A blocked Bloom filter (Putze, Sanders and Singler, 2007), of 16 bits for an identifier; one in five hundred that is new is looked for all
//! the same. Blocks come in the order of hashes, so that sorted ones go through memory from its begin to its end.

use sluicebox_model::IdentifierHash;

/// Identifiers that the first filter has room for; each one after it has room for twice as many.
const FIRST: usize = 1 << 20;
const BITS: usize = 16;
/// Bits of a block that an identifier sets.
const SET: u32 = 6;

/// Bits that are in one line of the processor's cache.
type Block = [u64; 8];

/// The identifiers that were put into a store since it was empty.
#[derive(Default)]
pub(crate) struct Known {
    filters: Vec<Filter>,
}

struct Filter {
    blocks: Vec<Block>,
    /// How many more it has room for.
    room: usize,
}

impl Known {
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

    /// Whether an identifier may be among them; if not, it is not.
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

/// The bits that a hash sets in its block. Those of a hash that tell the block are not among those that tell its bits.
fn bits(hash: IdentifierHash) -> Block {
    let mut bits = [0; 8];
    for bit in 0..SET {
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
    fn what_was_put_in_is_known_and_little_else() {
        let hasher = IdentifierHasher::new(&[7; 16]);
        let hash = |number: u32| hasher.hash(&[[0, 0, 0, 1], [0, 0, 0, 7], number.to_be_bytes()].concat());
        let mut known = Known::default();
        assert!(!known.may_hold(hash(0)));
        let held = 3 * FIRST as u32 + 1;
        (0..held).for_each(|number| known.insert(hash(number)));
        assert_eq!(known.filters.len(), 3);
        assert!((0..held).all(|number| known.may_hold(hash(number))));
        let wrong = (held..held + 1_000_000).filter(|number| known.may_hold(hash(*number))).count();
        assert!(wrong < 10_000, "{wrong}");
    }
}
