//! Which new tables stay in the page cache. RocksDB's writer of tables has the system drop what was written
//! (`invalidate_page_cache` of `SstFileWriter`, which its C interface cannot turn off). Tables of a store that grows should stay:
//! the next rows look them up, and reading 150 MB of a million new profiles back from the disk took a tenth of the time of
//! their import. Tables that replace records are dropped: the old ones are in the cache, and as much memory again costs more
//! than a later lookup.

use std::num::NonZero;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

/// Whether tables that are being written stay in the page cache; one commit at a time writes some.
static RETAIN_NEW_TABLES: AtomicBool = AtomicBool::new(false);

/// Sets whether tables that are written from now on stay in the page cache.
pub(crate) fn retain_new_tables(retain_new_tables: bool) {
    RETAIN_NEW_TABLES.store(retain_new_tables, Ordering::Relaxed);
}

/// RocksDB's advice, by its numbers in Linux (`linux/fadvise.h`); `None` if the system should not get it.
fn advice_for_system(advice: i32, retain_new_tables: bool) -> Option<Advice> {
    match advice {
        0 => Some(Advice::Normal),
        1 => Some(Advice::Random),
        2 => Some(Advice::Sequential),
        3 => Some(Advice::WillNeed),
        4 if !retain_new_tables => Some(Advice::DontNeed),
        5 => Some(Advice::NoReuse),
        _ => None,
    }
}

/// Stands in for the C library's function of that name, for RocksDB, which is linked into the program. 0, or the number of an error.
#[expect(unsafe_code, reason = "RocksDB finds the function by its name")]
#[unsafe(no_mangle)]
extern "C" fn posix_fadvise(file: i32, offset: i64, length: i64, advice: i32) -> i32 {
    let Some(advice) = advice_for_system(advice, RETAIN_NEW_TABLES.load(Ordering::Relaxed)) else { return 0 };
    if file < 0 {
        return Errno::BADF.raw_os_error();
    }
    #[expect(unsafe_code, reason = "the caller has the file open")]
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
    fn tables_that_stay_are_not_dropped() {
        let advice =
            |retain_new_tables| [0, 1, 2, 3, 4, 5].map(|advice| advice_for_system(advice, retain_new_tables));
        use Advice::{DontNeed, NoReuse, Normal, Random, Sequential, WillNeed};
        let all = [Normal, Random, Sequential, WillNeed, DontNeed, NoReuse].map(Some);
        assert_eq!(advice(false), all);
        assert_eq!(advice(true), all.map(|advice| advice.filter(|advice| *advice != DontNeed)));
        assert_eq!(posix_fadvise(-1, 0, 0, 0), Errno::BADF.raw_os_error());
    }
}
