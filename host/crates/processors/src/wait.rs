//! `wasi:io/poll` whose waits end with the time of the call.
//!
//! While a plugin waits, host code runs, where no epoch interrupts it. WASI's own implementation waits as long as the plugin
//! says: for ever, if it likes.

use std::thread;
use std::time::{Duration, Instant};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime::{Result, Trap};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::sync::io::poll::{self, Host, HostPollable};

use crate::limits::State;

/// How often a wait looks whether it is over.
const PAUSE: Duration = Duration::from_millis(1);

/// Replaces `wasi:io/poll` in a linker that has WASI.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    linker.allow_shadowing(true);
    poll::add_to_linker::<State, HasWaits>(linker, |state| {
        let (resources, deadline) = state.waits();
        Waits { resources, deadline }
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

struct HasWaits;

impl HasData for HasWaits {
    type Data<'a> = Waits<'a>;
}

struct Waits<'a> {
    resources: &'a mut ResourceTable,
    /// The end of the call's time.
    deadline: Instant,
}

impl Waits<'_> {
    fn is_ready(&mut self, pollable: u32) -> Result<bool> {
        HostPollable::ready(self.resources, Resource::new_borrow(pollable))
    }

    /// Stops the plugin, as the clock of epochs does, if the time of the call is up.
    fn check_time(&self) -> Result<()> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(Trap::Interrupt.into()) }
    }

    fn pause(&self) -> Result<()> {
        self.check_time()?;
        thread::sleep(PAUSE.min(self.deadline.saturating_duration_since(Instant::now())));
        Ok(())
    }
}

impl Host for Waits<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        if pollables.is_empty() {
            return Err(wasmtime::format_err!("empty poll list"));
        }
        loop {
            let mut ready = Vec::new();
            for (place, pollable) in (0..).zip(&pollables) {
                self.check_time()?;
                if self.is_ready(pollable.rep())? {
                    ready.push(place);
                }
            }
            if !ready.is_empty() {
                return Ok(ready);
            }
            self.pause()?;
        }
    }
}

impl HostPollable for Waits<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        self.is_ready(pollable.rep())
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        while !self.is_ready(pollable.rep())? {
            self.pause()?;
        }
        Ok(())
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        HostPollable::drop(self.resources, pollable)
    }
}
