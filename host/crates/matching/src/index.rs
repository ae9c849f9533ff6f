//! One type for each kind of number that indexes parallel arrays, so that none is taken for another.

use sluicebox_model::never;

/// A number of 32 bits that indexes an array.
pub(crate) trait Index: Copy {
    /// Indexes nothing: every array is shorter.
    const NONE: Self;

    /// The index of a number.
    fn from_u32(number: u32) -> Self;

    /// Its number.
    fn number(self) -> u32;

    /// The index of a place. Arrays have fewer than 2^32 - 1 elements.
    #[inline]
    fn new(place: usize) -> Self {
        match u32::try_from(place) {
            Ok(number) => Self::from_u32(number),
            Err(_) => {
                never!(true, "an array has more elements than indexes");
                Self::NONE
            }
        }
    }

    /// The place in an array.
    #[inline]
    fn place(self) -> usize {
        self.number() as usize
    }
}

macro_rules! indexes {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(pub u32);

        impl Index for $name {
            const NONE: Self = Self(u32::MAX);

            #[inline]
            fn from_u32(number: u32) -> Self {
                Self(number)
            }

            #[inline]
            fn number(self) -> u32 {
                self.0
            }
        }
    )+};
}

indexes! {
    /// A row of a chunk that the processors kept, in file order.
    RowIndex,
    /// An identifier that a batch names, in the order of the batch's cells.
    KeyIndex,
    /// A distinct identifier of a chunk, in the order of hashes.
    SlotIndex,
    /// A stored record that the rows of a chunk resolve to, in the order of ids.
    RecordIndex,
    /// A record in memory while rows are applied to it.
    EntryIndex,
}

/// A partition of a chunk.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionIndex(pub u16);

impl PartitionIndex {
    /// No partition: there are fewer.
    pub(crate) const NONE: Self = Self(u16::MAX);

    /// The partition of a number.
    #[inline]
    pub(crate) fn new(number: usize) -> Self {
        match u16::try_from(number) {
            Ok(number) => Self(number),
            Err(_) => {
                never!(true, "a chunk has more partitions than indexes");
                Self::NONE
            }
        }
    }

    /// Its number.
    #[inline]
    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }
}
