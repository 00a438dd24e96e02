//! Inode numbers.
//!
//! A number is a digest of the place and of what it holds, so it needs no table to be stable: it
//! is the same before and after the kernel forgets the inode, and in every mount of the store.
//! The table here only leads back from a number to its node for as long as the kernel knows the
//! number, which it says by counting look-ups (`FORGET` in the FUSE protocol).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use fuser::INodeNo;
use pool_core::digest::ObjectId;

use crate::tree::Place;

/// A place with what it held when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Where.
    pub place: Place,
    /// Digest of the content, and of a segment of which file it is; absent for directories.
    pub version: Option<ObjectId>,
}

impl Node {
    /// The mount point.
    pub const ROOT: Self = Self {
        place: Place::Root,
        version: None,
    };

    /// The preferred number; `attempt` grows from zero while another node has it.
    fn number(&self, attempt: u64) -> INodeNo {
        if self.place == Place::Root {
            return INodeNo::ROOT;
        }
        let mut key = self.place.path().into_bytes();
        key.push(0);
        key.extend(self.version.iter().flat_map(|version| version.0));
        key.extend(attempt.to_le_bytes());
        let digest = ObjectId::of(&key);
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&digest.0[..8]);
        // 63 bits, for programs that keep numbers signed; 0 and 1 mean something else.
        INodeNo((u64::from_le_bytes(prefix) >> 1).max(2))
    }
}

/// The numbers that the kernel knows.
#[derive(Debug, Default)]
pub struct Inodes {
    known: Mutex<HashMap<INodeNo, Known>>,
}

#[derive(Debug)]
struct Known {
    node: Node,
    lookups: u64,
}

impl Inodes {
    /// The number to show in a listing, which the kernel does not count as a look-up.
    pub fn shown(node: &Node) -> INodeNo {
        node.number(0)
    }

    /// The number of a node that is about to be told to the kernel, counted as one look-up.
    pub fn remember(&self, node: &Node) -> INodeNo {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 0;
        loop {
            let number = node.number(attempt);
            match known.entry(number) {
                Entry::Vacant(entry) => {
                    entry.insert(Known {
                        node: node.clone(),
                        lookups: 1,
                    });
                    return number;
                }
                Entry::Occupied(mut entry) if entry.get().node == *node => {
                    entry.get_mut().lookups += 1;
                    return number;
                }
                // Two nodes with the same 63 bits: the later one moves on.
                Entry::Occupied(_) => attempt += 1,
            }
        }
    }

    /// The node of a number that the kernel knows.
    pub fn node(&self, number: INodeNo) -> Option<Node> {
        if number == INodeNo::ROOT {
            return Some(Node::ROOT);
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&number).map(|known| known.node.clone())
    }

    /// Takes back `lookups` look-ups; the last ends the entry.
    pub fn forget(&self, number: INodeNo, lookups: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = known.entry(number) {
            let left = entry.get().lookups.saturating_sub(lookups);
            if left == 0 {
                entry.remove();
            } else {
                entry.get_mut().lookups = left;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, version: Option<&[u8]>) -> Node {
        let place = path
            .split('/')
            .try_fold(Place::Root, |place, name| place.child(name))
            .unwrap();
        Node {
            place,
            version: version.map(ObjectId::of),
        }
    }

    #[test]
    fn numbers_last_as_long_as_look_ups_and_come_back_the_same() {
        let inodes = Inodes::default();
        let node = node("libs/zlib/1/content", Some(b"v1"));
        let number = inodes.remember(&node);
        assert_eq!(inodes.remember(&node), number);
        assert_eq!(Inodes::shown(&node), number);
        inodes.forget(number, 1);
        assert_eq!(inodes.node(number), Some(node.clone()));
        inodes.forget(number, 1);
        assert_eq!(inodes.node(number), None);
        inodes.forget(number, 1);
        assert_eq!(inodes.remember(&node), number);
    }

    #[test]
    fn new_content_is_a_new_inode() {
        let inodes = Inodes::default();
        let numbers = [
            inodes.remember(&node("images/a/1/desc", Some(b"v1"))),
            inodes.remember(&node("images/a/1/desc", Some(b"v2"))),
            inodes.remember(&node("images/a/2/desc", Some(b"v1"))),
            inodes.remember(&node("images/a/1", None)),
        ];
        for (at, number) in numbers.iter().enumerate() {
            assert!(!numbers[..at].contains(number));
            assert!(number.0 > 1 && number.0 < 1 << 63);
        }
    }

    #[test]
    fn the_root_is_always_known() {
        let inodes = Inodes::default();
        assert_eq!(inodes.node(INodeNo::ROOT), Some(Node::ROOT));
        assert_eq!(Inodes::shown(&Node::ROOT), INodeNo::ROOT);
        inodes.forget(INodeNo::ROOT, 1);
        assert_eq!(inodes.node(INodeNo::ROOT), Some(Node::ROOT));
    }

    #[test]
    fn a_taken_number_is_not_given_twice() {
        let inodes = Inodes::default();
        let wanted = node("libs/a/1", None);
        let taken = Inodes::shown(&wanted);
        inodes.known.lock().unwrap().insert(
            taken,
            Known {
                node: node("libs/b/1", None),
                lookups: 1,
            },
        );
        let number = inodes.remember(&wanted);
        assert_ne!(number, taken);
        assert_eq!(inodes.node(number), Some(wanted));
    }
}
