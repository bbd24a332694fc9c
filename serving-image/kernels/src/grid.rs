//! The layout of the tokens' values.

use std::ops::Range;

/// Tokens in the lanes of panels; see the crate's page for the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    tokens: usize,
    lanes: usize,
}

/// Neighbouring tokens that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panel {
    /// Its first token.
    pub start: usize,
    /// Tokens it has room for: a whole number of registers. Only the last panel may have more room
    /// than tokens.
    pub width: usize,
}

/// A run of tokens inside one panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The panel.
    pub panel: Panel,
    /// The run's first lane.
    pub lane: usize,
    /// Tokens in the run.
    pub len: usize,
    /// How many tokens of the asked range come before the run.
    pub before: usize,
}

impl Grid {
    /// Registers in a full panel.
    pub const MAX_VECTORS: usize = 3;

    /// A grid for that many tokens on a machine with that many lanes.
    pub fn new(tokens: usize, lanes: usize) -> Self {
        Self { tokens, lanes }
    }

    /// Elements of a buffer for `features` values a token, lanes without a token included.
    pub fn len(self, features: usize) -> usize {
        self.tokens.next_multiple_of(self.lanes) * features
    }

    /// Whether there is no token.
    pub fn is_empty(self) -> bool {
        self.tokens == 0
    }

    fn full(self) -> usize {
        self.lanes * Self::MAX_VECTORS
    }

    fn panel(self, start: usize) -> Panel {
        let room = self.tokens.next_multiple_of(self.lanes) - start;
        Panel {
            start,
            width: room.min(self.full()),
        }
    }

    /// The panels, in order.
    #[inline(always)]
    pub fn panels(self) -> impl Iterator<Item = Panel> {
        (0..self.tokens)
            .step_by(self.full())
            .map(move |start| self.panel(start))
    }

    /// The runs that a range of tokens falls into.
    #[inline(always)]
    pub fn segments(self, tokens: Range<usize>) -> impl Iterator<Item = Segment> {
        let Range { start, end } = tokens;
        let first = start - start % self.full();
        (first..end).step_by(self.full()).map(move |panel_start| {
            let panel = self.panel(panel_start);
            let from = start.max(panel_start);
            let to = end.min(panel_start + panel.width);
            Segment {
                panel,
                lane: from - panel_start,
                len: to - from,
                before: from - start,
            }
        })
    }
}

impl Panel {
    /// The panel's part of a buffer with `features` values a token.
    #[inline(always)]
    pub fn of(self, features: usize) -> Range<usize> {
        // Every panel before this one is full, so `start` counts its lanes too.
        self.start * features..(self.start + self.width) * features
    }
}

impl Segment {
    /// The run's values of one feature, in a buffer with `features` values a token.
    #[inline(always)]
    pub fn of(self, features: usize, feature: usize) -> Range<usize> {
        let start = self.panel.start * features + feature * self.panel.width + self.lane;
        start..start + self.len
    }
}
