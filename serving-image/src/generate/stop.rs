//! Ends a text at a stop string, which may span several tokens.

/// What may be shown of a text so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// Show this; the text continues.
    More(String),
    /// Show this; the text ends at a stop string.
    Last(String),
}

/// Looks for stop strings in a text that comes in pieces.
#[derive(Debug)]
pub struct Stops {
    strings: Vec<String>,
    /// The end of the text so far, where a stop string may have begun.
    held: String,
}

impl Stops {
    /// Stops at the first of these strings; none of them is empty.
    pub fn new(strings: Vec<String>) -> Self {
        Self {
            strings,
            held: String::new(),
        }
    }

    /// Adds a piece. What could be the beginning of a stop string is held back.
    pub fn push(&mut self, piece: &str) -> Shown {
        self.held.push_str(piece);
        let first = self
            .strings
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min();
        if let Some(start) = first {
            self.held.truncate(start);
            return Shown::Last(std::mem::take(&mut self.held));
        }
        let keep = self
            .strings
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max();
        let end = self.held.len() - keep.unwrap_or(0);
        Shown::More(self.held.drain(..end).collect())
    }

    /// What was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` with which `stop` begins.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len());
    (1..=longest)
        .rev()
        .find(|length| text.as_bytes().ends_with(&stop.as_bytes()[..*length]))
        .filter(|length| stop.is_char_boundary(*length))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stops = Stops::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut shown = Vec::new();
        for piece in pieces {
            match stops.push(piece) {
                Shown::More(text) => shown.push(text),
                Shown::Last(text) => {
                    shown.push(text);
                    return (shown, true);
                }
            }
        }
        shown.push(stops.finish());
        (shown, false)
    }

    #[test]
    fn a_stop_across_pieces_is_never_shown() {
        let (shown, stopped) = run(&["###"], &["a #", "#", "# b"]);
        assert_eq!(
            (shown.as_slice(), stopped),
            (["a ", "", ""].map(str::to_owned).as_slice(), true)
        );
    }

    #[test]
    fn a_false_beginning_is_shown_as_soon_as_it_is_known() {
        let (shown, stopped) = run(&["###"], &["a ##", "b", " #"]);
        assert_eq!(shown, ["a ", "##b", " ", "#"]);
        assert!(!stopped);
    }

    #[test]
    fn the_earliest_of_several_ends_the_text() {
        let (shown, stopped) = run(&["world", "lo"], &["hello world"]);
        assert_eq!((shown, stopped), (vec!["hel".to_owned()], true));
    }

    #[test]
    fn nothing_is_held_without_stops() {
        assert_eq!(run(&[], &["a", "b"]).0, ["a", "b", ""]);
    }

    proptest! {
        #[test]
        fn pieces_show_what_the_whole_shows(text in "[abé]{0,20}", stop in "[abé]{1,3}",
            cuts in proptest::collection::vec(0..21_usize, 0..4)) {
            let cuts = cuts.into_iter().filter(|cut| text.is_char_boundary(*cut));
            let mut places: Vec<usize> = cuts.collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let pieces: Vec<&str> = places.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
            let (shown, stopped) = run(&[&stop], &pieces);
            let expected = text.split(stop.as_str()).next().unwrap_or_default();
            prop_assert_eq!(shown.concat(), expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
