//! What keeps a router from following a model, in words.

use std::fmt::{self, Display, Formatter};

use crate::router::{PendingReason, RouterRejection};

impl Display for PendingReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (rejections, more) = match self {
            Self::Words(words) => return f.write_str(words),
            Self::Rejected { rejections, more } => (rejections, *more),
        };
        for rejection in rejections {
            let RouterRejection {
                router,
                what,
                port,
                words,
            } = rejection;
            write!(f, "Router {router} refuses this model's {what}")?;
            if let Some(port) = port {
                write!(f, " on port {port}")?;
            }
            write!(f, ": {words}. ")?;
        }
        if more > 0 {
            write!(f, "So do {more} more. ")?;
        }
        f.write_str(
            "New connections go to the other routers, if there are any. It is offered again every \
             30 s; if this stays, delete the router's pod.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_are_quoted_and_the_others_counted() {
        let rejected = |port, more| PendingReason::Rejected {
            rejections: vec![RouterRejection {
                router: "a".to_owned(),
                what: "listener".to_owned(),
                port,
                words: "Address already in use".to_owned(),
            }],
            more,
        };
        assert_eq!(
            rejected(Some(54_070), 0).to_string(),
            "Router a refuses this model's listener on port 54070: Address already in use. \
             New connections go to the other routers, if there are any. It is offered again \
             every 30 s; if this stays, delete the router's pod."
        );
        let said = rejected(None, 2).to_string();
        assert!(said.contains("listener: Address"), "{said}");
        assert!(said.contains("So do 2 more."), "{said}");
    }
}
