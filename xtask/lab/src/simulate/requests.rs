//! Requests that are the same for every gate: what becomes of one is a pure hash of the run, its
//! place in the stream and the version that answers it. A gate that gives the canary more traffic
//! sees more of the same fates, no others.

/// One of the two versions, as a word that is mixed into a request's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The version on trial.
    Canary,
    /// The version that it would replace.
    Stable,
}

/// What is drawn for a request, each from a hash of its own.
const ARRIVAL: u64 = 1;
const ROUTE: u64 = 2;
const CANARY: u64 = 3;
const STABLE: u64 = 4;
const POD: u64 = 5;
const INPUT: u64 = 6;

/// SplitMix64's output function (Steele, Lea and Flood 2014): every bit of the word moves every bit
/// of the result.
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A number in [0, 1) from a hash.
pub fn uniform(word: u64) -> f64 {
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

/// One request: its hash, from which all else about it follows.
#[derive(Debug, Clone, Copy)]
pub struct Request(u64);

impl Request {
    /// Request `index` of the stream `seed`.
    fn new(seed: u64, index: u64) -> Self {
        Self(mix(seed ^ mix(index)))
    }

    /// Whether a router that gives the canary `weight` percent sends it there. Raising the weight
    /// moves requests to the canary and none away from it.
    pub fn goes_to_canary(self, weight: u8) -> bool {
        self.draw(ROUTE) >> 32 < (u64::from(weight) << 32) / 100
    }

    /// Two independent draws, each below 2³²: whether it fails, and how long it takes.
    pub fn fate(self, version: Version) -> (u64, u64) {
        let word = self.draw(match version {
            Version::Canary => CANARY,
            Version::Stable => STABLE,
        });
        (word >> 32, word & 0xFFFF_FFFF)
    }

    /// Which of `pods` equal pods answers it.
    pub fn pod(self, pods: u64) -> u64 {
        self.draw(POD) % pods
    }

    /// Where its input lies among all inputs, in [0, 1).
    pub fn input(self) -> f64 {
        uniform(self.draw(INPUT))
    }

    fn draw(self, salt: u64) -> u64 {
        mix(self.0 ^ mix(salt))
    }
}

/// A Poisson stream of requests.
#[derive(Debug)]
pub struct Stream {
    seed: u64,
    next: u64,
    /// How many requests' worth of time pass until the next one: exponential with mean 1.
    wait: f64,
}

impl Stream {
    /// The stream of one run.
    pub fn new(seed: u64) -> Self {
        let mut stream = Self {
            seed,
            next: 0,
            wait: 0.0,
        };
        stream.wait = stream.gap();
        stream
    }

    /// Appends the requests of a stretch of time in which `expected` requests are due on average.
    pub fn take(&mut self, expected: f64, into: &mut Vec<Request>) {
        let mut left = expected;
        while self.wait <= left {
            left -= self.wait;
            into.push(Request::new(self.seed, self.next));
            self.next += 1;
            self.wait = self.gap();
        }
        self.wait -= left;
    }

    fn gap(&self) -> f64 {
        let draw = uniform(Request::new(self.seed, self.next).draw(ARRIVAL));
        -(1.0 - draw).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(expected: f64) -> Vec<Request> {
        let mut requests = Vec::new();
        Stream::new(7).take(expected, &mut requests);
        requests
    }

    #[test]
    fn a_stream_is_the_same_in_one_piece_and_in_many() {
        let mut stream = Stream::new(7);
        let mut pieces = Vec::new();
        for _ in 0..1_000 {
            stream.take(0.5, &mut pieces);
        }
        let whole = requests(500.0);
        assert_eq!(whole.len(), pieces.len());
        assert!(whole.iter().zip(&pieces).all(|(a, b)| a.0 == b.0));
        assert!((430..570).contains(&whole.len()), "{}", whole.len());
    }

    #[test]
    fn draws_have_their_shares_and_do_not_depend_on_each_other() {
        let requests = requests(40_000.0);
        let share = |hit: &dyn Fn(&Request) -> bool| {
            requests.iter().filter(|request| hit(request)).count() as f64 / requests.len() as f64
        };
        let near = |value: f64, wanted: f64| assert!((value - wanted).abs() < 0.01, "{value}");
        let low = |draw: u64| draw < 1 << 31;
        near(share(&|r| r.goes_to_canary(10)), 0.1);
        near(share(&|r| r.pod(3) == 0), 1.0 / 3.0);
        near(share(&|r| r.input() < 0.2), 0.2);
        near(share(&|r| low(r.fate(Version::Canary).0)), 0.5);
        let of_both = |r: &Request| {
            low(r.fate(Version::Canary).0) && low(r.fate(Version::Stable).0) && r.goes_to_canary(50)
        };
        near(share(&of_both), 0.125);
        near(
            share(&|r| {
                let (failure, latency) = r.fate(Version::Stable);
                low(failure) && low(latency)
            }),
            0.25,
        );
    }

    #[test]
    fn a_higher_weight_takes_no_request_from_the_canary() {
        assert!(
            requests(10_000.0)
                .iter()
                .all(|r| !r.goes_to_canary(10) || r.goes_to_canary(25))
        );
    }
}
