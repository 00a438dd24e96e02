//! What a guest asked its kernel for and did not get because it is not served, for the report and for whoever
//! wonders why a program fails.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::trace::{names, words_of};

/// Numbers of unknown calls are counted apart below this, where Linux's lie with room to spare.
/// A guest chooses the numbers, and may not make the monitor grow by them.
const COUNTED_APART: u64 = 1024;
/// The same for calls that are refused for their arguments.
const REFUSALS: usize = 64;
/// What the others are counted as.
const OTHERS: &str = "others";

/// Calls that were not served.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Unserved {
    /// Calls that there are not, by number; all numbers from 1024 on are counted as 1024.
    #[serde(rename = "unknown_calls")]
    pub unknown: BTreeMap<u64, u64>,
    /// Calls that there are, with arguments that are not served.
    #[serde(rename = "refused_calls")]
    pub refused: BTreeMap<String, u64>,
    /// It asked to start a process.
    #[serde(rename = "refused_process", skip_serializing_if = "std::ops::Not::not")]
    pub process: bool,
    /// It looked for files that could not be handed over.
    #[serde(rename = "refused_files", skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
}

impl Unserved {
    /// Counts a call that there is not.
    pub(crate) fn unknown(&mut self, number: u64) {
        *self.unknown.entry(number.min(COUNTED_APART)).or_default() += 1;
    }

    /// Counts a call that is not served with these arguments.
    pub(crate) fn refused(&mut self, number: u64, arguments: &[u64; 6]) {
        let words = words_of(number, arguments);
        let is_full = self.refused.len() >= REFUSALS && !self.refused.contains_key(&words);
        let key = if is_full { OTHERS.to_owned() } else { words };
        *self.refused.entry(key).or_default() += 1;
    }

    /// Says of a guest that has failed what may be why.
    pub fn lines(&self, failed: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if self.process {
            let line = "the guest asked to start a process (fork or execve), which is not served";
            lines.push(line.to_owned());
        }
        if !failed {
            return lines;
        }
        if self.unheard {
            let line = "the guest looked for files that poolvmm makes (/proc/self/maps, /dev/null and their like): a guest \
                        that is a process has none where somebody else listens at seccomp filters, as some managers \
                        of containers do; use --platform kvm";
            lines.push(line.to_owned());
        }
        if !self.unknown.is_empty() {
            let names = self.unknown.iter().map(|(&number, &count)| match number {
                COUNTED_APART => times(format!("numbers from {number} on"), count),
                _ => match names::call(number) {
                    Some(name) => times(format!("{name} ({number})"), count),
                    None => times(format!("number {number}"), count),
                },
            });
            let names: Vec<_> = names.collect();
            lines.push(format!(
                "the guest made calls that are not served: {}",
                names.join(", ")
            ));
        }
        if !self.refused.is_empty() {
            let calls = self.refused.iter();
            let calls: Vec<_> = calls
                .map(|(words, &count)| times(words.clone(), count))
                .collect();
            lines.push(format!(
                "the guest made calls with arguments that are not served: {}",
                calls.join(", ")
            ));
        }
        lines
    }
}

fn times(what: String, count: u64) -> String {
    match count {
        1 => what,
        _ => format!("{what} {count} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_make_the_lists_grow() {
        let mut unserved = Unserved::default();
        for number in 0..10_000 {
            unserved.unknown(number);
            unserved.refused(libc::SYS_prctl as u64, &[number, 0, 0, 0, 0, 0]);
        }
        assert_eq!(unserved.unknown.len(), 1025);
        assert_eq!(unserved.unknown[&1024], 10_000 - 1024);
        assert_eq!(unserved.refused.len(), REFUSALS + 1);
        assert_eq!(unserved.refused[OTHERS], 10_000 - REFUSALS as u64);
    }

    #[test]
    fn calls_are_named_when_a_guest_has_failed() {
        let mut unserved = Unserved::default();
        for number in [425, 425, 999, 5000] {
            unserved.unknown(number);
        }
        unserved.refused(libc::SYS_prctl as u64, &[4, 1, 0, 0, 0, 0]);
        unserved.refused(libc::SYS_setsockopt as u64, &[3, 1, 26, 9, 16, 0]);
        assert!(unserved.lines(false).is_empty());
        let expected = [
            "the guest made calls that are not served: io_uring_setup (425) 2 times, number 999, \
             numbers from 1024 on",
            "the guest made calls with arguments that are not served: prctl(PR_SET_DUMPABLE), \
             setsockopt(SOL_SOCKET, 26)",
        ];
        assert_eq!(unserved.lines(true), expected);
    }
}
