//! Which fresh tables stay in the system's memory. RocksDB's writer of tables has it drop what was written (`invalidate_page_cache` of
//! `SstFileWriter`, which its C interface cannot turn off). Tables of a store that grows stay: the next rows look them up, and to read
//! 150 MB of a million new profiles back from the disk took a tenth of the time of their import. Those of records that were there before are
//! dropped: memory has what they replace, and to take as much again that was not touched before costs more than a later look.

use std::num::NonZero;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

/// Whether tables that are being written stay in memory; one commit at a time makes some.
static STAY: AtomicBool = AtomicBool::new(false);

/// Tells whether tables that are written from now on stay in memory.
pub(crate) fn stay(stay: bool) {
    STAY.store(stay, Ordering::Relaxed);
}

/// Of the advice that RocksDB gives, by its numbers in Linux (`linux/fadvise.h`), what the system is told.
fn passed_on(advice: i32, stay: bool) -> Option<Advice> {
    match advice {
        0 => Some(Advice::Normal),
        1 => Some(Advice::Random),
        2 => Some(Advice::Sequential),
        3 => Some(Advice::WillNeed),
        4 if !stay => Some(Advice::DontNeed),
        5 => Some(Advice::NoReuse),
        _ => None,
    }
}

/// Stands in for the C library's function of that name, for RocksDB, which is linked into the program. 0, or the number of an error.
#[expect(unsafe_code, reason = "RocksDB finds the function by its name")]
#[unsafe(no_mangle)]
extern "C" fn posix_fadvise(file: i32, offset: i64, length: i64, advice: i32) -> i32 {
    let Some(advice) = passed_on(advice, STAY.load(Ordering::Relaxed)) else { return 0 };
    if file < 0 {
        return Errno::BADF.raw_os_error();
    }
    #[expect(unsafe_code, reason = "whoever gives advice has the file open")]
    let file = unsafe { BorrowedFd::borrow_raw(file) };
    let length = NonZero::new(u64::try_from(length).unwrap_or_default());
    match fadvise(file, u64::try_from(offset).unwrap_or_default(), length, advice) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_is_not_dropped() {
        let told = |stay| [0, 1, 2, 3, 4, 5].map(|advice| passed_on(advice, stay));
        use Advice::{DontNeed, NoReuse, Normal, Random, Sequential, WillNeed};
        let all = [Normal, Random, Sequential, WillNeed, DontNeed, NoReuse].map(Some);
        assert_eq!(told(false), all);
        assert_eq!(told(true), all.map(|advice| advice.filter(|advice| *advice != DontNeed)));
        assert_eq!(posix_fadvise(-1, 0, 0, 0), Errno::BADF.raw_os_error());
    }
}
