//! The cells of an export: how values are written.

use std::cell::Cell;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use sluicebox_model::packed::{pack_property, packed_text, packed_values, unpack_value};
use sluicebox_model::{Moment, OrNever, Property, PropertyId, Value, ValueType, append_list_value};

use crate::config::{ExportGoal, ValueFormat};

/// How the values of a property are written.
pub(super) struct Cells<'a> {
    value_type: ValueType,
    format: &'a ValueFormat,
    list_escape: Option<char>,
    timezone: &'a TimeZone,
}

/// How a packed property begins that is a single value.
const SINGLE: u8 = 0;

impl<'a> Cells<'a> {
    /// The format of a goal's values of a type.
    pub(super) fn of(goal: &'a ExportGoal, value_type: ValueType) -> Self {
        Self { value_type, format: &goal.values, list_escape: goal.list_escape, timezone: &goal.timezone }
    }

    /// Writes the values of a packed property. Returns how many values of a list are escaped, or need it because
    /// the list separator is in them.
    pub(super) fn property(&self, held: &[u8], text: &mut String) -> u64 {
        if held.first() == Some(&SINGLE) {
            packed_values(held).for_each(|value| self.value(value, text));
            return 0;
        }
        let (separator, mut with_separator, mut part) = (&self.format.list_separator, 0, String::new());
        for (place, value) in packed_values(held).enumerate() {
            if place > 0 {
                text.push_str(separator);
            }
            part.clear();
            self.value(value, &mut part);
            let before = text.len();
            let has_separator = append_list_value(&part, separator, self.list_escape, text);
            // An escape at its end has an escape before it, too.
            with_separator += u64::from(has_separator || text.len() - before > part.len());
        }
        with_separator
    }

    fn value(&self, value: &[u8], text: &mut String) {
        match self.value_type {
            ValueType::Date if self.format.date.is_some() => match unpack_value(value) {
                Some(Value::Date(date)) => self.date(date, text),
                _ => text.push_str(&packed_text(value)),
            },
            ValueType::DateTime if self.format.datetime.is_some() => match unpack_value(value) {
                Some(Value::DateTime(moment)) => self.moment(moment, text),
                _ => text.push_str(&packed_text(value)),
            },
            ValueType::Number if self.format.decimal != '.' => {
                text.extend(
                    packed_text(value).chars().map(|c| if c == '.' { self.format.decimal } else { c }),
                );
            }
            _ => text.push_str(&packed_text(value)),
        }
    }

    fn date(&self, date: Date, text: &mut String) {
        match &self.format.date {
            Some(format) => text.push_str(&date.strftime(format).to_string()),
            None => text.push_str(&date.to_string()),
        }
    }

    fn moment(&self, moment: Moment, text: &mut String) {
        match &self.format.datetime {
            Some(format) => text.push_str(&moment.format(format, self.timezone)),
            None => text.push_str(&moment.to_string()),
        }
    }

    /// Writes a time in milliseconds since the epoch.
    pub(super) fn milliseconds(&self, milliseconds: i64, text: &mut String) {
        self.moment(Timestamp::from_millisecond(milliseconds).or_never("the time of a record").into(), text);
    }
}

/// Writes the cells of events and their nested rows.
pub(crate) struct EventCells<'a> {
    goal: &'a ExportGoal,
    with_separator: Cell<u64>,
}

impl<'a> EventCells<'a> {
    pub(crate) fn new(goal: &'a ExportGoal) -> Self {
        Self { goal, with_separator: Cell::new(0) }
    }

    /// How many values of lists had the list separator in them.
    pub(crate) fn with_separator(&self) -> u64 {
        self.with_separator.get()
    }

    /// The cells of these columns, given properties in the order of their ids.
    pub(crate) fn cells(
        &self,
        properties: &[(PropertyId, Property)],
        columns: &[(Option<PropertyId>, ValueType)],
    ) -> Vec<String> {
        let cell = |(id, value_type): &(Option<PropertyId>, ValueType)| {
            let mut text = String::new();
            let found = id.and_then(|id| properties.binary_search_by_key(&id, |(own, _)| *own).ok());
            if let Some((_, property)) = found.and_then(|place| properties.get(place)) {
                let mut packed = Vec::new();
                pack_property(property, &mut packed);
                let with_separator = Cells::of(self.goal, *value_type).property(&packed, &mut text);
                self.with_separator.set(self.with_separator.get() + with_separator);
            }
            text
        };
        columns.iter().map(cell).collect()
    }

    /// The cell of an event's time.
    pub(crate) fn time(&self, time: Moment) -> String {
        let mut text = String::new();
        Cells::of(self.goal, ValueType::DateTime).moment(time, &mut text);
        text
    }
}
