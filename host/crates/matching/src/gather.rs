use std::collections::BTreeMap;

use sluicebox_model::{
    Event, EventOrigin, EventRows, EventTouch, Moment, NestedTypeId, Properties, Property, PropertyId,
};

use crate::index::EntryIndex;
use crate::prepare::{EventRow, RowEvent, RowTime};

/// An event to which several rows of a file add, while they do.
pub(crate) struct Gathering {
    /// The profile that it belongs to.
    pub entry: EntryIndex,
    /// Stands for the file and its import.
    import: u64,
    /// The line after the last row of the root file that added to it.
    next: u64,
    time: Option<OfLine<Moment>>,
    properties: BTreeMap<PropertyId, OfLine<Property>>,
    nested: Vec<(NestedTypeId, BTreeMap<u64, Properties>)>,
    product_store: bool,
}

/// A value, after the line of its row.
type OfLine<T> = (u64, T);

impl Gathering {
    /// An event to which no row has added.
    pub(crate) fn new(entry: EntryIndex, import: u64) -> Self {
        Self {
            entry,
            import,
            next: 0,
            time: None,
            properties: BTreeMap::new(),
            nested: Vec::new(),
            product_store: false,
        }
    }

    /// What earlier rows of the same import made, so that a row adds to it; `None` where the event is of another import, or of an
    /// earlier one of the same file, which had this row or one after it.
    pub(crate) fn continued(entry: EntryIndex, event: &Event, import: u64, row: &EventRow) -> Option<Self> {
        let rows = event.origin.rows.as_ref()?;
        let continues = event.origin.import == import && rows.next <= row.root;
        if !continues && !row.supplements {
            return None;
        }
        let properties = event.properties.iter().zip(&rows.properties);
        let nested =
            event.nested.iter().zip(&rows.nested).map(|((kind, held), lines)| {
                (*kind, lines.iter().copied().zip(held.iter().cloned()).collect())
            });
        Some(Self {
            entry,
            import,
            next: rows.next,
            time: Some((rows.time, event.time)),
            properties: properties.map(|((id, held), row)| (*id, (*row, held.clone()))).collect(),
            nested: nested.collect(),
            product_store: event.product_store,
        })
    }

    /// Whether the rows of an import add to it.
    pub(crate) fn is_of(&self, import: u64) -> bool {
        self.import == import
    }

    /// Whether some row gave the time.
    pub(crate) fn has_time(&self) -> bool {
        self.time.is_some()
    }

    /// Adds what a row has. Of two rows with a value, that of the later one counts; a row that was added before counts once.
    pub(crate) fn add(&mut self, carried: &RowEvent, row: &EventRow) {
        self.next = self.next.max(row.root + 1);
        self.product_store = carried.event.product_store;
        let is_later = |held: Option<u64>| held.is_none_or(|held| held <= row.line);
        if row.time == RowTime::Valid && is_later(self.time.map(|(held, _)| held)) {
            self.time = Some((row.line, carried.event.time));
        }
        for (id, property) in &carried.event.properties {
            if is_later(self.properties.get(id).map(|(held, _)| *held)) {
                self.properties.insert(*id, (row.line, property.clone()));
            }
        }
        for ((kind, rows), lines) in carried.event.nested.iter().zip(&row.nested) {
            let place = self.nested.iter().position(|(held, _)| held == kind).unwrap_or_else(|| {
                self.nested.push((*kind, BTreeMap::new()));
                self.nested.len() - 1
            });
            let Some((_, held)) = self.nested.get_mut(place) else { continue };
            held.extend(lines.iter().copied().zip(rows.iter().cloned()));
        }
    }

    /// The event; `None` while no row gave its time. Its touch and its fingerprint before are still to be set.
    pub(crate) fn event(mut self) -> Option<Event> {
        let (time_row, time) = self.time?;
        // In an order that does not depend on which row came first.
        self.nested.sort_by_key(|(kind, _)| *kind);
        let nested = self.nested.into_iter().map(|(kind, rows)| {
            let (lines, rows): (Vec<u64>, Vec<Properties>) = rows.into_iter().unzip();
            (lines, (kind, rows))
        });
        let (lines, nested) = nested.unzip();
        let properties = self.properties.into_iter().map(|(id, (row, held))| ((id, held), row));
        let (properties, rows) = properties.unzip();
        let rows =
            EventRows { next: self.next, time: time_row, properties: rows, nested: lines, before: None };
        Some(Event {
            time,
            properties,
            nested,
            product_store: self.product_store,
            touch: EventTouch::default(),
            origin: EventOrigin { import: self.import, rows: Some(Box::new(rows)) },
        })
    }
}
