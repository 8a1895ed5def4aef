//! From label codes to what the segmentation loss counts with.

use super::config::LabelSpace;
use crate::data::source::Groups;

/// Index of a pixel that does not count.
pub const IGNORED: i64 = -100;
/// The same in a byte; no index is as large.
pub const IGNORED_BYTE: u8 = 255;

/// What each label code of the sources means to a network of a label space.
#[derive(Debug, Clone)]
pub struct LabelTable {
    /// Of each code: the channels that are right.
    members: Vec<Vec<u8>>,
    space: LabelSpace,
}

impl LabelTable {
    /// The table of a label space, with the groups of the sources.
    pub fn new(space: LabelSpace, groups: &Groups) -> Self {
        let channels = |train_ids: Vec<u8>| {
            let mut channels: Vec<u8> = train_ids.into_iter().map(|id| space.channel(id)).collect();
            channels.sort_unstable();
            channels.dedup();
            channels
        };
        Self { members: groups.members().into_iter().map(channels).collect(), space }
    }

    /// Channels of the segmentation head; the last one is "unlabelled" and never right.
    pub fn channels(&self) -> usize {
        self.space.channels()
    }

    /// A train id that a channel stands for.
    pub fn train_id(&self, channel: u8) -> u8 {
        self.space.train_id(channel)
    }

    /// Of each label code: the channels that are right; none where the pixel does not count.
    pub fn members(&self) -> &[Vec<u8>] {
        &self.members
    }

    /// What the loss takes for a code: the channel, or for tables with groups the code itself; [`IGNORED`] where the
    /// pixel does not count.
    pub fn index(&self, code: u8) -> i64 {
        match self.members.get(usize::from(code)).map(Vec::as_slice) {
            None | Some([]) => IGNORED,
            Some([channel]) if !self.has_groups() => i64::from(*channel),
            Some(_) => i64::from(code),
        }
    }

    /// [`LabelTable::index`] of every code, as a byte: [`IGNORED_BYTE`] where the pixel does not count.
    pub fn codes(&self) -> [u8; 256] {
        std::array::from_fn(|code| u8::try_from(self.index(code as u8)).unwrap_or(IGNORED_BYTE))
    }

    /// Whether a label may stand for several channels.
    pub fn has_groups(&self) -> bool {
        self.members.iter().any(|m| m.len() > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_channels() {
        let table = LabelTable::new(LabelSpace::TrainIds, &Groups::default());
        assert_eq!((table.index(0), table.index(18), table.index(19), table.index(99)), (0, 18, IGNORED, IGNORED));
        assert!(!table.has_groups());
        let codes = table.codes();
        assert_eq!((codes[0], codes[18], codes[19], codes[99]), (0, 18, IGNORED_BYTE, IGNORED_BYTE));
        // Road and sidewalk are both flat, person and rider both human.
        let table = LabelTable::new(LabelSpace::Categories, &Groups::default());
        assert_eq!(table.index(0), table.index(1));
        assert_eq!(table.index(11), table.index(12));
        assert_ne!(table.index(0), table.index(11));
        assert_eq!(table.index(19), IGNORED);
    }
}
