//! Answers in OpenAI's shapes. `model_version` is an extension, which clients ignore.

use serde_json::{Value, json};

use super::Endpoint;
use crate::generate::FinishReason;

/// What all parts of one answer share.
#[derive(Debug)]
pub(super) struct Answer {
    pub endpoint: Endpoint,
    /// 32 hexadecimal digits.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub model_version: String,
    pub prompt_tokens: usize,
}

impl Answer {
    /// All of it.
    pub(super) fn whole(&self, text: &str, reason: FinishReason, tokens: usize) -> Value {
        let mut answer = match self.endpoint {
            Endpoint::Completion => {
                self.page("text_completion", &Self::text_choice(text, Some(reason)))
            }
            Endpoint::Chat => {
                let choice = json!({
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": null},
                    "logprobs": null,
                    "finish_reason": reason.name(),
                });
                self.page("chat.completion", &choice)
            }
        };
        answer["usage"] = self.usage(tokens);
        answer
    }

    /// The part of a stream before the text; `None` for completions.
    pub(super) fn opening(&self) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        (self.endpoint == Endpoint::Chat).then(|| self.delta(&delta, None))
    }

    /// A part of a stream with more text.
    pub(super) fn more(&self, text: &str) -> Value {
        match self.endpoint {
            Endpoint::Completion => self.page("text_completion", &Self::text_choice(text, None)),
            Endpoint::Chat => self.delta(&json!({"content": text}), None),
        }
    }

    /// The part of a stream that says why it ends.
    pub(super) fn last(&self, reason: FinishReason) -> Value {
        match self.endpoint {
            Endpoint::Completion => {
                self.page("text_completion", &Self::text_choice("", Some(reason)))
            }
            Endpoint::Chat => self.delta(&json!({}), Some(reason)),
        }
    }

    /// The part of a stream that has no choice, but the counts.
    pub(super) fn counts(&self, tokens: usize) -> Value {
        let mut part = self.last(FinishReason::Stop);
        part["choices"] = json!([]);
        part["usage"] = self.usage(tokens);
        part
    }

    fn page(&self, object: &str, choice: &Value) -> Value {
        let prefix = match self.endpoint {
            Endpoint::Completion => "cmpl",
            Endpoint::Chat => "chatcmpl",
        };
        json!({
            "id": format!("{prefix}-{}", self.id),
            "object": object,
            "created": self.created,
            "model": self.model,
            "model_version": self.model_version,
            "choices": [choice],
        })
    }

    fn text_choice(text: &str, reason: Option<FinishReason>) -> Value {
        json!({
            "index": 0,
            "text": text,
            "logprobs": null,
            "finish_reason": reason.map(FinishReason::name),
        })
    }

    fn delta(&self, delta: &Value, reason: Option<FinishReason>) -> Value {
        let choice = json!({
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": reason.map(FinishReason::name),
        });
        self.page("chat.completion.chunk", &choice)
    }

    fn usage(&self, tokens: usize) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        })
    }
}
