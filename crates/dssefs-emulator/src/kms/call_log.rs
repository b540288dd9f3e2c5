//! The latest KMS calls, as CloudTrail would show them: the caller, the key and the encryption context.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// How many calls are remembered; older ones are only counted.
const EVENTS_MAX: usize = 1_024;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who called.
    pub caller: Caller,
    /// The name of the KMS operation, such as `Decrypt`.
    pub action: String,
    /// The key: for calls of S3 that succeeded its ARN, else the name as given; `None` when the call names none.
    pub key: Option<String>,
    /// The encryption context.
    pub context: BTreeMap<String, String>,
}

/// Who called KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// S3, on behalf of a request.
    S3,
    /// A client itself.
    Client,
}

#[derive(Debug, Default)]
pub(super) struct CallLog {
    events: VecDeque<Event>,
    calls: BTreeMap<(Caller, String), u64>,
}

impl CallLog {
    pub(super) fn record(&mut self, event: Event) {
        *self.calls.entry((event.caller, event.action.clone())).or_default() += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.iter().cloned().collect()
    }

    pub(super) fn calls(&self, caller: Caller) -> BTreeMap<String, u64> {
        let own = self.calls.iter().filter(|((by, _), _)| *by == caller);
        own.map(|((_, action), count)| (action.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_are_forgotten_and_still_counted() {
        let mut log = CallLog::default();
        for n in 0..=EVENTS_MAX {
            let key = Some(n.to_string());
            log.record(Event { caller: Caller::S3, action: "Decrypt".into(), key, context: BTreeMap::new() });
        }
        assert_eq!(log.events().len(), EVENTS_MAX);
        assert_eq!(log.events()[0].key.as_deref(), Some("1"));
        assert_eq!(log.calls(Caller::S3)["Decrypt"], EVENTS_MAX as u64 + 1);
    }
}
