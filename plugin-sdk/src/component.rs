use std::cell::RefCell;
use std::marker::PhantomData;

use crate::bindings::exports::sluicebox::processor::processor::{
    Description, Guest, GuestSession, Opened, Session as SessionHandle,
};
use crate::bindings::sluicebox::processor::types;
use crate::{Batch, Columns, Failure, Output, Processor, configuration};

/// The exports of a component with the processor `P`: the adapter behind [`crate::register!`].
#[derive(Debug)]
pub struct Component<P>(PhantomData<P>);

#[derive(Debug)]
#[doc(hidden)]
pub struct Session<P> {
    processor: RefCell<P>,
    wanted: u32,
}

impl<P: Processor> Guest for Component<P> {
    type Session = Session<P>;

    fn describe() -> Description {
        Description {
            name: P::NAME.to_owned(),
            version: P::VERSION.to_owned(),
            summary: P::SUMMARY.to_owned(),
            config_schema: configuration::schema::<P::Config>(),
        }
    }
}

impl<P: Processor> GuestSession for Session<P> {
    fn open(config: String, header: Vec<String>) -> Result<Opened, types::Failure> {
        let (session, wanted, added) = open::<P>(&config, header)?;
        Ok(Opened { session: SessionHandle::new(session), wanted, added })
    }

    fn process(&self, input: types::Batch) -> Result<types::Outcome, types::Failure> {
        self.run(input)
    }
}

/// A session, the places of the columns that it reads, and the names of the columns that it adds.
type OpenSession<P> = (Session<P>, Vec<u32>, Vec<String>);

pub(crate) fn open<P: Processor>(config: &str, header: Vec<String>) -> Result<OpenSession<P>, Failure> {
    let config = configuration::parse(config)?;
    let mut columns = Columns::new(header);
    let processor = P::open(config, &mut columns)?;
    let (wanted, added) = columns.into_parts();
    let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    Ok((Session { processor: RefCell::new(processor), wanted: count }, wanted, added))
}

impl<P: Processor> Session<P> {
    pub(crate) fn run(&self, input: types::Batch) -> Result<types::Outcome, types::Failure> {
        let batch = Batch::new(input);
        let mut output = Output::new(batch.rows());
        self.processor.borrow_mut().process(&batch, &mut output)?;
        Ok(output.into_outcome(self.wanted))
    }
}

impl From<Failure> for types::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Config(message) => Self::Config(message),
            Failure::Data(message) => Self::Data(message),
        }
    }
}
