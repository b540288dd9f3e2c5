//! The plan in force, and how often each of its rules has seen and struck a request.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::{Fault, Plan, Rule};

/// The plan in force.
#[derive(Debug, Default)]
pub struct Faults {
    armed: Mutex<Vec<Standing>>,
}

/// A rule and its counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The rule as planned.
    #[serde(flatten)]
    pub rule: Rule,
    /// Requests that matched it.
    pub seen: u64,
    /// Requests that it struck.
    pub struck: u64,
    /// How many it may still strike; `None` (JSON: null) means without end.
    pub left: Option<u64>,
}

impl Faults {
    /// Puts a plan in force.
    #[must_use]
    pub fn new(plan: Plan) -> Faults {
        let faults = Faults::default();
        faults.replace(plan);
        faults
    }

    /// Puts another plan in force; the counts start from zero.
    pub fn replace(&self, plan: Plan) {
        *self.lock() = Vec::from(plan).into_iter().map(Standing::new).collect();
    }

    /// The rules and their counts, in order.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        self.lock().clone()
    }

    /// The fault that strikes this request, if one does.
    ///
    /// Each rule that matches has seen the request; the first that is due strikes it, and the others wait for the next.
    pub fn strike(&self, operation: &str, key: Option<&str>) -> Option<Fault> {
        let mut armed = self.lock();
        let mut fault = None;
        for standing in armed.iter_mut().filter(|standing| standing.rule.matches(operation, key)) {
            standing.seen += 1;
            if fault.is_none() && standing.is_due() {
                fault = Some(standing.strike());
            }
        }
        fault
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Standing>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn new(rule: Rule) -> Standing {
        let left = (rule.times > 0).then_some(rule.times);
        Standing { rule, seen: 0, struck: 0, left }
    }

    fn is_due(&self) -> bool {
        self.seen >= self.rule.nth && self.left != Some(0)
    }

    fn strike(&mut self) -> Fault {
        self.struck += 1;
        self.left = self.left.map(|left| left - 1);
        self.rule.fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rules: Vec<Rule>) -> Faults {
        Faults::new(Plan::new(rules).unwrap())
    }

    #[test]
    fn a_rule_counts_requests_and_strikes() {
        let faults = faults(vec![Rule::on("GetObject", Fault::Reset).nth(2).times(2)]);
        let struck: Vec<bool> = (0..5).map(|_| faults.strike("GetObject", None).is_some()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
        assert_eq!(faults.strike("PutObject", None), None);
        let standing = &faults.standing()[0];
        assert_eq!((standing.seen, standing.struck, standing.left), (5, 2, Some(0)));
    }

    #[test]
    fn zero_times_means_for_ever() {
        let faults = faults(vec![Rule::on("*", Fault::Stall).times(0)]);
        assert!((0..100).all(|_| faults.strike("GetObject", Some("k")) == Some(Fault::Stall)));
        assert_eq!(faults.standing()[0].left, None);
    }

    #[test]
    fn the_first_due_rule_strikes_alone() {
        let faults = faults(vec![Rule::on("*", Fault::Reset), Rule::on("GetObject", Fault::LoseAnswer)]);
        assert_eq!(faults.strike("GetObject", None), Some(Fault::Reset));
        assert_eq!(faults.strike("GetObject", None), Some(Fault::LoseAnswer));
        assert_eq!(faults.strike("GetObject", None), None);
    }

    #[test]
    fn the_standing_shows_the_rule_and_what_is_left() {
        let faults = faults(vec![Rule::on("GetObject", Fault::FlipByte(3)).times(4)]);
        faults.strike("GetObject", None);
        let json = serde_json::to_value(faults.standing()).unwrap();
        assert_eq!(json[0]["fault"]["flip_byte"], 3);
        assert_eq!(json[0]["left"], 3);
    }
}
