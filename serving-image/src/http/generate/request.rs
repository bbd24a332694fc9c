//! Validates OpenAI's requests. A field that this server does not support is refused by name.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZero;

use serde_json::{Map, Value};

use super::Endpoint;
use crate::generate::{Generator, Message, Request, Sampling, TemplateError, TokenLimits};
use crate::http::body::refuse_unknown;
use crate::json::integer;
use crate::preprocess::FieldErrors;

/// Tokens of a completion that does not say how many: OpenAI's default.
const COMPLETION_TOKENS: usize = 16;

/// Most stop strings, and the longest one in characters.
const MAX_STOPS: usize = 4;
const MAX_STOP_LENGTH: usize = 256;

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 1_024;

/// A request that can be done.
#[derive(Debug)]
pub(super) struct Asked {
    pub request: Request,
    pub stream: bool,
    pub include_usage: bool,
    /// Fields that were given and change nothing.
    pub ignored: Vec<&'static str>,
}

/// What the generated text continues.
enum Source {
    Prompt(String),
    /// With what the template is told beside the messages.
    Conversation(Vec<Message>, Map<String, Value>),
}

impl Asked {
    /// Reads a request, or lists all that is wrong with it. Blocks while it tokenises.
    pub(super) fn read(
        endpoint: Endpoint,
        body: Map<String, Value>,
        model: &str,
        generator: &Generator,
    ) -> Result<Self, FieldErrors> {
        let limits = generator.limits;
        let mut fields = Fields {
            body,
            errors: FieldErrors::default(),
            ignored: Vec::new(),
        };
        let source = match endpoint {
            Endpoint::Completion => fields.prompt().map(Source::Prompt),
            Endpoint::Chat => {
                let messages = fields.messages();
                let arguments = fields.template_arguments();
                messages.map(|messages| Source::Conversation(messages, arguments))
            }
        };
        let (max_tokens, max_tokens_field) = fields.max_tokens(endpoint, limits);
        let sampling = fields.sampling();
        let stops = fields.stops();
        let stream = fields.flag("stream").unwrap_or(false);
        let include_usage = fields.stream_options(stream);
        fields.only_trivial(endpoint, model);
        fields.ignore(endpoint);
        refuse_unknown(&fields.body, KNOWN[endpoint as usize], &mut fields.errors);
        let (mut errors, ignored) = (fields.errors, fields.ignored);

        let source_field = match endpoint {
            Endpoint::Completion => "/prompt",
            Endpoint::Chat => "/messages",
        };
        let tokens = source.map(|source| encode(generator, source));
        let prompt = match tokens {
            None => Vec::new(), // its error is among the others
            Some(Err(expected)) => {
                errors.push(|| source_field.to_owned(), expected);
                Vec::new()
            }
            Some(Ok(tokens)) => tokens,
        };
        if prompt.len() > limits.prompt {
            let expected = format!("at most {} tokens", limits.prompt);
            errors.push(|| source_field.to_owned(), expected);
        }
        let left = limits.context.saturating_sub(prompt.len());
        let max_tokens = match max_tokens {
            Some(asked) => {
                if prompt.len() <= limits.prompt && asked > left && asked <= limits.answer {
                    let expected = format!(
                        "at most {left}: the prompt and the answer together have room for {} \
                         tokens",
                        limits.context
                    );
                    errors.push(|| max_tokens_field.to_owned(), expected);
                }
                asked
            }
            None if endpoint == Endpoint::Completion => {
                COMPLETION_TOKENS.min(limits.answer).min(left)
            }
            None => limits.answer.min(left),
        };
        if errors.total > 0 {
            return Err(errors);
        }
        Ok(Self {
            request: Request {
                prompt,
                max_tokens,
                sampling,
                stops,
            },
            stream,
            include_usage,
            ignored,
        })
    }
}

/// The fields that each endpoint knows; the error about an unknown field lists them.
const KNOWN: [&str; 2] = [
    "prompt, model, max_tokens, temperature, top_p, top_k, seed, stop, frequency_penalty, \
     presence_penalty, stream, stream_options, n, best_of, echo, suffix, logprobs, logit_bias, \
     user, metadata, store",
    "messages, model, max_tokens, max_completion_tokens, temperature, top_p, top_k, seed, stop, \
     frequency_penalty, presence_penalty, stream, stream_options, n, logprobs, top_logprobs, \
     logit_bias, response_format, chat_template_kwargs, tools, tool_choice, modalities, user, \
     metadata, store, safety_identifier, prompt_cache_key, prompt_cache_retention, service_tier, \
     parallel_tool_calls",
];

/// Fields that change no answer here, whatever they are. Each endpoint takes the first so many.
pub(in crate::http) const IGNORED: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "parallel_tool_calls",
];
pub(in crate::http) const IGNORED_OF_COMPLETIONS: usize = 3;

/// The tokens of a prompt. Fails with what is expected instead.
fn encode(generator: &Generator, source: Source) -> Result<Vec<u32>, String> {
    let text = match source {
        Source::Prompt(text) => text,
        Source::Conversation(messages, arguments) => {
            let Some(template) = generator.template() else {
                return Err(
                    "nothing: this model has no chat template; /v1/completions takes a prompt"
                        .into(),
                );
            };
            template
                .render(&messages, &arguments)
                .map_err(|error| match error {
                    TemplateError::Refused(words) => {
                        format!("a conversation that the model's template takes: {words}")
                    }
                    TemplateError::Broken(reason) => {
                        tracing::warn!(%reason, "the chat template failed");
                        "a conversation that the model's template takes".to_owned()
                    }
                })?
        }
    };
    match generator.encode(&text) {
        Ok(tokens) if !tokens.is_empty() => Ok(tokens),
        _ => Err("a text that the tokeniser can read".into()),
    }
}

/// The fields of the body, each removed when it is read, and their errors.
struct Fields {
    body: Map<String, Value>,
    errors: FieldErrors,
    ignored: Vec<&'static str>,
}

impl Fields {
    /// Takes a field; `null` is as good as nothing, as OpenAI has it.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.body.remove(name).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, field: &str, expected: impl Into<String>) {
        self.errors.push(|| field.to_owned(), expected);
    }

    fn prompt(&mut self) -> Option<String> {
        let prompt = match self.take("prompt") {
            Some(Value::String(text)) => Some(text),
            Some(Value::Array(mut texts)) if texts.len() == 1 => match texts.pop() {
                Some(Value::String(text)) => Some(text),
                _ => None,
            },
            _ => None,
        };
        let prompt = prompt.filter(|text| !text.is_empty());
        if prompt.is_none() {
            self.refuse(
                "/prompt",
                "a text that is not empty, or an array of one (required)",
            );
        }
        prompt
    }

    fn messages(&mut self) -> Option<Vec<Message>> {
        let messages = match self.take("messages") {
            Some(Value::Array(messages)) if (1..=MAX_MESSAGES).contains(&messages.len()) => {
                messages
            }
            _ => {
                let expected = format!("an array of 1 to {MAX_MESSAGES} messages (required)");
                self.refuse("/messages", expected);
                return None;
            }
        };
        let before = self.errors.total;
        let read = messages
            .into_iter()
            .enumerate()
            .filter_map(|(index, message)| self.message(&format!("/messages/{index}"), message))
            .collect();
        (self.errors.total == before).then_some(read)
    }

    fn message(&mut self, pointer: &str, message: Value) -> Option<Message> {
        let Value::Object(mut message) = message else {
            self.refuse(pointer, "an object with role and content");
            return None;
        };
        let role = match message.remove("role") {
            Some(Value::String(role))
                if matches!(role.as_str(), "system" | "user" | "assistant") =>
            {
                Some(role)
            }
            // OpenAI's newer word for it, which models' templates do not know.
            Some(Value::String(role)) if role == "developer" => Some("system".into()),
            _ => {
                let expected = "\"system\", \"developer\", \"user\" or \"assistant\" (required)";
                self.refuse(&format!("{pointer}/role"), expected);
                None
            }
        };
        let content = message.remove("content").and_then(content);
        if content.is_none() {
            let expected = "a text, or an array of parts of type \"text\" (required)";
            self.refuse(&format!("{pointer}/content"), expected);
        }
        // Who speaks changes no answer: templates have no place for it.
        if message.get("name").is_some_and(Value::is_string) {
            message.remove("name");
            self.note_ignored("messages.name");
        }
        for (name, value) in &message {
            // What an assistant's answer has beside its text, which clients send back.
            let expected = match name.as_str() {
                "annotations" | "tool_calls" if value.as_array().is_some_and(Vec::is_empty) => {
                    continue;
                }
                "refusal" | "annotations" | "audio" | "function_call" | "tool_calls" | "name"
                    if value.is_null() =>
                {
                    continue;
                }
                "name" => "a text",
                "refusal" | "annotations" | "audio" | "function_call" | "tool_calls" => {
                    "null, or nothing: this model reads and writes text alone"
                }
                _ => "no such field; the fields are role, content, name",
            };
            let field = || crate::preprocess::pointer(pointer, name);
            self.errors.push(field, expected);
        }
        Some(Message {
            role: role?,
            content: content?,
        })
    }

    /// What the model's template is told beside the messages.
    fn template_arguments(&mut self) -> Map<String, Value> {
        match self.take("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => {
                self.refuse("/chat_template_kwargs", "an object");
                Map::new()
            }
        }
    }

    /// Takes the fields that change nothing.
    fn ignore(&mut self, endpoint: Endpoint) {
        let count = match endpoint {
            Endpoint::Completion => IGNORED_OF_COMPLETIONS,
            Endpoint::Chat => IGNORED.len(),
        };
        for name in &IGNORED[..count] {
            if self.take(name).is_some() {
                self.note_ignored(name);
            }
        }
    }

    fn note_ignored(&mut self, name: &'static str) {
        if !self.ignored.contains(&name) {
            self.ignored.push(name);
        }
    }

    /// How many tokens, if the request says so, and the field that does.
    fn max_tokens(
        &mut self,
        endpoint: Endpoint,
        limits: TokenLimits,
    ) -> (Option<usize>, &'static str) {
        let (new, old) = ("max_completion_tokens", "max_tokens");
        let (name, pointer) = if endpoint == Endpoint::Chat && self.body.contains_key(new) {
            if self.take(old).is_some() {
                self.refuse("/max_tokens", "nothing beside max_completion_tokens");
            }
            (new, "/max_completion_tokens")
        } else {
            (old, "/max_tokens")
        };
        let most = limits.answer;
        let given = self.take(name);
        let number = given
            .as_ref()
            .and_then(integer)
            .and_then(|n| usize::try_from(n).ok());
        let number = number.filter(|number| (1..=most).contains(number));
        if given.is_some() && number.is_none() {
            self.refuse(pointer, format!("an integer from 1 to {most}"));
        }
        (number, pointer)
    }

    fn sampling(&mut self) -> Sampling {
        let penalty = (-2.0, 2.0, "a number from -2 to 2");
        Sampling {
            temperature: self.number("temperature", (0.0, 2.0, "a number from 0 to 2"), 1.0),
            top_p: self.number(
                "top_p",
                (f64::from_bits(1), 1.0, "a number above 0, up to 1"),
                1.0,
            ),
            top_k: self.top_k(),
            frequency_penalty: self.number("frequency_penalty", penalty, 0.0),
            presence_penalty: self.number("presence_penalty", penalty, 0.0),
            seed: self.seed(),
        }
    }

    fn number(&mut self, name: &str, bounds: (f64, f64, &str), default: f32) -> f32 {
        let (least, most, expected) = bounds;
        let Some(given) = self.take(name) else {
            return default;
        };
        let number = given
            .as_f64()
            .filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.refuse(&format!("/{name}"), expected);
        }
        number.map_or(default, |number| number as f32)
    }

    /// Not OpenAI's, but most servers' and clients' name; 0 and -1 are all tokens.
    fn top_k(&mut self) -> Option<NonZero<usize>> {
        let given = self.take("top_k")?;
        let number = integer(&given).filter(|number| *number >= -1);
        if number.is_none() {
            self.refuse("/top_k", "an integer of at least -1");
        }
        NonZero::new(usize::try_from(number?).ok()?)
    }

    /// Without one, each request has its own.
    fn seed(&mut self) -> u64 {
        match self.take("seed") {
            None => RandomState::new().hash_one(()),
            Some(given) => {
                let seed = integer(&given);
                if seed.is_none() {
                    self.refuse("/seed", "an integer of 64 bits");
                }
                seed.unwrap_or_default().cast_unsigned()
            }
        }
    }

    fn stops(&mut self) -> Vec<String> {
        let given = match self.take("stop") {
            None => return Vec::new(),
            Some(Value::Array(stops)) => stops,
            Some(stop) => vec![stop],
        };
        let count = given.len();
        let is_usable = |stop: &String| !stop.is_empty() && stop.chars().count() <= MAX_STOP_LENGTH;
        let stops: Vec<String> = given
            .into_iter()
            .filter_map(|stop| match stop {
                Value::String(stop) => Some(stop).filter(is_usable),
                _ => None,
            })
            .collect();
        if stops.len() < count || !(1..=MAX_STOPS).contains(&count) {
            let expected = format!(
                "a text of 1 to {MAX_STOP_LENGTH} characters, or an array of 1 to {MAX_STOPS} of \
                 them"
            );
            self.refuse("/stop", expected);
        }
        stops
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        let given = self.take(name)?;
        let flag = given.as_bool();
        if flag.is_none() {
            self.refuse(&format!("/{name}"), "true or false");
        }
        flag
    }

    /// Whether the counts are wanted at the end of a stream.
    fn stream_options(&mut self, stream: bool) -> bool {
        let Some(options) = self.take("stream_options") else {
            return false;
        };
        let Value::Object(mut options) = options else {
            self.refuse("/stream_options", "an object");
            return false;
        };
        if !stream {
            self.refuse("/stream_options", "nothing where stream is not true");
        }
        let include_usage = match options.remove("include_usage") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.refuse("/stream_options/include_usage", "true or false");
                false
            }
        };
        for name in options.keys() {
            let field = || crate::preprocess::pointer("/stream_options", name);
            self.errors
                .push(field, "no such field; the field is include_usage");
        }
        include_usage
    }

    /// Fields of OpenAI's that this server takes only where they change nothing.
    fn only_trivial(&mut self, endpoint: Endpoint, model: &str) {
        let mut allow = |name: &str, expected: &str, holds: &dyn Fn(&Value) -> bool| {
            if let Some(given) = self.take(name)
                && !holds(&given)
            {
                self.refuse(&format!("/{name}"), expected);
            }
        };
        let is_empty_object = |given: &Value| given.as_object().is_some_and(Map::is_empty);
        allow("model", &format!("{model:?}, or nothing"), &|given| {
            given == model
        });
        allow("n", "1, or nothing: one text a request", &|given| {
            integer(given) == Some(1)
        });
        allow(
            "logit_bias",
            "nothing: this server has no biases",
            &is_empty_object,
        );
        let none = "nothing: this server tells no probabilities";
        match endpoint {
            Endpoint::Completion => {
                allow("logprobs", none, &|_| false);
                allow("best_of", "1, or nothing", &|given| {
                    integer(given) == Some(1)
                });
                allow("echo", "false, or nothing", &|given| *given == false);
                allow("suffix", "nothing: this server does not fill in", &|_| {
                    false
                });
            }
            Endpoint::Chat => {
                allow(
                    "logprobs",
                    "false, or nothing: this server tells no probabilities",
                    &|given| *given == false,
                );
                allow("top_logprobs", none, &|_| false);
                let is_empty = |given: &Value| given.as_array().is_some_and(Vec::is_empty);
                let no_tools = "nothing: this model is served without tools";
                allow("tools", no_tools, &is_empty);
                allow("tool_choice", no_tools, &|given| {
                    *given == "none" || *given == "auto"
                });
                let only_text = serde_json::json!(["text"]);
                allow("modalities", "[\"text\"], or nothing", &|given| {
                    *given == only_text
                });
                let text = serde_json::json!({"type": "text"});
                allow(
                    "response_format",
                    "{\"type\": \"text\"}, or nothing",
                    &|given| *given == text,
                );
            }
        }
    }
}

/// A message's text, which may come in parts.
fn content(content: Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text),
        Value::Array(parts) if !parts.is_empty() => {
            let texts = parts.into_iter().map(|part| match part {
                Value::Object(mut part) if part.len() == 2 && part.get("type")? == "text" => {
                    match part.remove("text") {
                        Some(Value::String(text)) => Some(text),
                        _ => None,
                    }
                }
                _ => None,
            });
            texts.collect()
        }
        _ => None,
    }
}
