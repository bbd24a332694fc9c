//! Decides which texts are computed next. Pure: no clock and no thread.
//!
//! Requests wait in line and take turns. In its turn a request has up to half a batch computed: a
//! small one is done then, so small ones are answered in the order in which they came; a large one
//! goes back to the end of the line with the rest. So a request of a thousand long texts delays
//! others by at most its half of a batch.
//!
//! Nothing waits for a batch to fill up: whenever the engine is free, it takes what is there. Under
//! load that is a full batch, and alone a request has no wait at all.

use std::collections::VecDeque;
use std::ops::Range;

/// Bounds of a batch and of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens in a batch; a longer text is computed alone. Padding is not counted, because
    /// none is computed.
    pub tokens: usize,
    /// Most texts in a batch.
    pub texts: usize,
    /// Most requests in line.
    pub requests: usize,
}

/// The line.
#[derive(Debug)]
pub(super) struct Queue<R> {
    waiting: VecDeque<Waiting<R>>,
    limits: Limits,
}

#[derive(Debug)]
struct Waiting<R> {
    request: R,
    /// Tokens of each text.
    lengths: Vec<usize>,
    /// How many of them have been taken.
    taken: usize,
}

/// Neighbouring texts of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<R> {
    pub(super) request: R,
    pub(super) texts: Range<usize>,
}

impl<R: Clone> Queue<R> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            waiting: VecDeque::new(),
            limits,
        }
    }

    /// Requests in line, those in parts included.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Puts a request at the end of the line; gives it back where the line is full.
    pub(super) fn offer(&mut self, request: R, lengths: Vec<usize>) -> Result<(), R> {
        if self.waiting.len() >= self.limits.requests {
            return Err(request);
        }
        self.waiting.push_back(Waiting {
            request,
            lengths,
            taken: 0,
        });
        Ok(())
    }

    /// Takes everybody out of the line.
    pub(super) fn clear(&mut self) -> Vec<R> {
        self.waiting
            .drain(..)
            .map(|waiting| waiting.request)
            .collect()
    }

    /// Returns the next batch, which is empty only if the queue is, and the abandoned requests,
    /// which have left the queue.
    pub(super) fn take(&mut self, is_wanted: impl Fn(&R) -> bool) -> (Vec<Part<R>>, Vec<R>) {
        let mut abandoned = Vec::new();
        self.waiting.retain(|waiting| {
            let stays = is_wanted(&waiting.request);
            if !stays {
                abandoned.push(waiting.request.clone());
            }
            stays
        });

        let mut batch: Vec<Part<R>> = Vec::new();
        let mut room = Room {
            tokens: self.limits.tokens,
            texts: self.limits.texts,
        };
        let turn = Room {
            tokens: room.tokens.div_ceil(2),
            texts: room.texts.div_ceil(2),
        };
        while let Some(mut waiting) = self.waiting.pop_front() {
            let (mut left, start) = (turn, waiting.taken);
            let mut is_full = false;
            for length in &waiting.lengths[start..] {
                let is_first = batch.is_empty() && waiting.taken == start;
                let is_over = waiting.taken > start && !left.fits(*length);
                is_full = !is_over && !is_first && !room.fits(*length);
                if is_over || is_full {
                    break;
                }
                room.fill(*length);
                left.fill(*length);
                waiting.taken += 1;
            }
            if waiting.taken > start {
                batch.push(Part {
                    request: waiting.request.clone(),
                    texts: start..waiting.taken,
                });
            }
            if is_full {
                self.waiting.push_front(waiting); // its turn is not over
                break;
            }
            if waiting.taken < waiting.lengths.len() {
                self.waiting.push_back(waiting);
            }
        }
        (batch, abandoned)
    }
}

/// What still fits.
#[derive(Debug, Clone, Copy)]
struct Room {
    tokens: usize,
    texts: usize,
}

impl Room {
    fn fits(&self, length: usize) -> bool {
        self.texts > 0 && length <= self.tokens
    }

    fn fill(&mut self, length: usize) {
        self.tokens = self.tokens.saturating_sub(length);
        self.texts = self.texts.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn limits() -> impl Strategy<Value = Limits> {
        (1..400_usize, 1..40_usize).prop_map(|(tokens, texts)| Limits {
            tokens,
            texts,
            requests: 64,
        })
    }

    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(1..200_usize, 1..60)
    }

    /// The batches until the line is empty, each with the requests' ids.
    fn batches(queue: &mut Queue<usize>) -> Vec<Vec<Part<usize>>> {
        std::iter::from_fn(|| Some(queue.take(|_| true).0).filter(|batch| !batch.is_empty()))
            .collect()
    }

    proptest! {
        #[test]
        fn every_text_is_computed_once_and_in_order(limits in limits(),
            requests in prop::collection::vec(lengths(), 1..20)) {
            let mut queue = Queue::new(limits);
            for (id, lengths) in requests.iter().enumerate() {
                prop_assert!(queue.offer(id, lengths.clone()).is_ok());
            }
            let mut next: BTreeMap<usize, usize> = BTreeMap::new();
            for batch in batches(&mut queue) {
                for Part { request, texts } in batch {
                    let next = next.entry(request).or_default();
                    prop_assert_eq!(texts.start, *next);
                    prop_assert!(texts.end > texts.start);
                    *next = texts.end;
                }
            }
            prop_assert_eq!(queue.len(), 0);
            for (id, lengths) in requests.iter().enumerate() {
                prop_assert_eq!(next[&id], lengths.len());
            }
        }

        #[test]
        fn a_batch_keeps_its_bounds_unless_one_text_alone_breaks_them(
            limits in limits(), requests in prop::collection::vec(lengths(), 1..20),
        ) {
            let mut queue = Queue::new(limits);
            for (id, lengths) in requests.iter().enumerate() {
                queue.offer(id, lengths.clone()).unwrap();
            }
            for batch in batches(&mut queue) {
                let texts: Vec<usize> = batch
                    .iter()
                    .flat_map(|part| &requests[part.request][part.texts.clone()])
                    .copied()
                    .collect();
                prop_assert!(texts.len() <= limits.texts);
                prop_assert!(texts.len() == 1 || texts.iter().sum::<usize>() <= limits.tokens);
            }
        }

        #[test]
        fn a_small_request_is_done_one_batch_after_those_ahead_had_a_turn_each(
            limits in limits(), ahead in prop::collection::vec(lengths(), 0..20),
        ) {
            let mut queue = Queue::new(limits);
            for (id, lengths) in ahead.iter().enumerate() {
                queue.offer(id, lengths.clone()).unwrap();
            }
            let small = ahead.len();
            queue.offer(small, vec![1]).unwrap();
            let batches = batches(&mut queue);
            let has_small = |batch: &Vec<Part<usize>>| {
                batch.iter().any(|part| part.request == small)
            };
            let found = batches.iter().position(has_small).unwrap();
            prop_assert!(found <= ahead.len(), "batch {found} behind {} requests", ahead.len());
        }

        #[test]
        fn what_nobody_waits_for_is_not_computed(limits in limits(),
            requests in prop::collection::vec(lengths(), 2..20)) {
            let mut queue = Queue::new(limits);
            for (id, lengths) in requests.iter().enumerate() {
                queue.offer(id, lengths.clone()).unwrap();
            }
            let mut abandoned = 0;
            loop {
                let (batch, gone) = queue.take(|id| id % 2 == 0);
                abandoned += gone.len();
                prop_assert!(batch.iter().all(|part| part.request % 2 == 0));
                if batch.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(abandoned, requests.len() / 2);
        }
    }

    #[test]
    fn small_requests_are_answered_in_the_order_in_which_they_came() {
        let mut queue = Queue::new(Limits {
            tokens: 64,
            texts: 8,
            requests: 9,
        });
        for id in 0..9 {
            queue.offer(id, vec![16]).unwrap();
        }
        let order: Vec<usize> = batches(&mut queue)
            .into_iter()
            .flatten()
            .map(|part| part.request)
            .collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_large_request_shares_each_batch_with_those_behind_it() {
        let mut queue = Queue::new(Limits {
            tokens: 1024,
            texts: 64,
            requests: 9,
        });
        queue.offer("large", vec![128; 1024]).unwrap();
        queue.offer("small", vec![16]).unwrap();
        let (batch, _) = queue.take(|_| true);
        let parts: Vec<_> = batch
            .iter()
            .map(|part| (part.request, part.texts.clone()))
            .collect();
        // Half of 1,024 tokens, the small one, and then the large one's next turn as far as it
        // fits.
        assert_eq!(parts, [("large", 0..4), ("small", 0..1), ("large", 4..7)]);
    }

    #[test]
    fn a_full_line_gives_the_request_back() {
        let mut queue = Queue::new(Limits {
            tokens: 8,
            texts: 8,
            requests: 1,
        });
        assert_eq!(queue.offer('a', vec![1]), Ok(()));
        assert_eq!(queue.offer('b', vec![1]), Err('b'));
        assert_eq!(queue.clear(), ['a']);
    }
}
