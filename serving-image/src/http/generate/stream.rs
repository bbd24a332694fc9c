//! An answer as server-sent events, one for each piece of the text.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, Sleep};

use super::answer::Answer;
use crate::generate::Event;
use crate::http::record::AnswerUsage;

/// The body of a streamed answer. Dropping it, which happens when its client goes away, gives up
/// the text.
pub(super) struct Stream {
    answer: Answer,
    include_usage: bool,
    usage: AnswerUsage,
    events: UnboundedReceiver<Event>,
    deadline: Pin<Box<Sleep>>,
    ready: VecDeque<Bytes>,
    complete: bool,
}

impl Stream {
    pub(super) fn new(
        answer: Answer,
        include_usage: bool,
        usage: AnswerUsage,
        events: UnboundedReceiver<Event>,
        deadline: Instant,
        first: Event,
    ) -> Self {
        let opening = answer.opening();
        let mut stream = Self {
            answer,
            include_usage,
            usage,
            events,
            deadline: Box::pin(tokio::time::sleep_until(deadline)),
            ready: VecDeque::new(),
            complete: false,
        };
        if let Some(opening) = opening {
            stream.send(opening);
        }
        stream.take(first);
        stream
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Text(text) => self.send(self.answer.more(&text)),
            Event::End { reason, tokens } => {
                self.usage.completion(tokens);
                self.send(self.answer.last(reason));
                if self.include_usage {
                    self.send(self.answer.counts(tokens));
                }
                self.ready
                    .push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                self.complete = true;
            }
            Event::Failed => self.fail(500, "The text could not be completed"),
        }
    }

    /// The status is sent already: the error is the last event, and what the request is counted as.
    fn fail(&mut self, status: u16, message: &str) {
        self.usage.failed(status);
        let error = json!({"error": {"message": message, "type": "server_error", "param": null,
            "code": status}});
        self.ready.push_back(event(&error));
        self.complete = true;
    }

    fn send(&mut self, mut part: Value) {
        if self.include_usage && part.get("usage").is_none() {
            part["usage"] = Value::Null;
        }
        self.ready.push_back(event(&part));
    }
}

fn event(data: &Value) -> Bytes {
    format!("data: {data}\n\n").into()
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if self.complete {
                return Poll::Ready(None);
            }
            if self.deadline.as_mut().poll(context).is_ready() {
                self.fail(504, "The time for this text is over");
                continue;
            }
            let event = ready!(self.events.poll_recv(context));
            self.take(event.unwrap_or(Event::Failed));
        }
    }
}
