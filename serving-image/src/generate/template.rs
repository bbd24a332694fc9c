//! The chat template that a GGUF file carries, as Hugging Face's tokenisers apply it.

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use serde::Serialize;
use serde_json::Map;

/// Steps that one rendering may take: a conversation of 1,000 messages needs about 50,000.
const FUEL: u64 = 5_000_000;

/// The template's name in its environment.
const NAME: &str = "chat";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

/// A conversation's form as a prompt.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

/// Why a conversation has no prompt.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template itself refused it, such as for two messages of one role in a row. Its own
    /// words.
    #[error("{0}")]
    Refused(String),
    /// The template is broken, or asks for what this build does not have.
    #[error("the chat template failed: {0}")]
    Broken(#[from] Error),
}

impl ChatTemplate {
    /// Parses a template. `begin` and `end` are its `bos_token` and `eos_token`. An error where it
    /// is no valid Jinja.
    pub fn new(source: &str, begin: &str, end: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<String, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
            },
        );
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            let now = jiff::Zoned::now();
            jiff::fmt::strtime::format(&format, &now)
                .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
        });
        environment.add_template_owned(NAME, source.to_owned())?;
        Ok(Self {
            environment,
            begin: begin.to_owned(),
            end: end.to_owned(),
        })
    }

    /// The prompt after which the assistant speaks. `arguments` are what else the template is told,
    /// such as `enable_thinking`; they replace none of its own. An error where the template refuses
    /// the messages, such as two of one role in a row.
    pub fn render(
        &self,
        messages: &[Message],
        arguments: &Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME)?;
        let rendered = template.render(context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.begin,
            eos_token => self.end,
            ..Value::from_serialize(arguments)
        });
        rendered.map_err(|error| {
            let raised = std::error::Error::source(&error)
                .is_some_and(<dyn std::error::Error>::is::<Raised>);
            match error.detail() {
                Some(words) if raised => TemplateError::Refused(words.to_owned()),
                _ => TemplateError::Broken(error),
            }
        })
    }
}

/// Marks an error that the template raised on purpose.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }

    #[test]
    fn blocks_leave_no_space_and_python_methods_work() {
        let source = "{{ bos_token }}{% for message in messages %}\n  {% if message.role == \
                      'user' %}\n[{{ message['content'].strip().upper() }}]\n  {% endif %}\n{% \
                      endfor %}{% if add_generation_prompt %}>{% endif %}";
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
        let prompt = template
            .render(
                &[message("system", "x"), message("user", " hi ")],
                &Map::new(),
            )
            .unwrap();
        assert_eq!(prompt, "<s>[HI]\n>");
    }

    #[test]
    fn arguments_are_seen_and_replace_nothing_of_its_own() {
        let source = "{{ enable_thinking }} {{ bos_token }}";
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
        let arguments = serde_json::json!({"enable_thinking": false, "bos_token": "x"});
        let prompt = template
            .render(&[], arguments.as_object().unwrap())
            .unwrap();
        assert_eq!(prompt, "False <s>"); // as Python words it
    }

    #[test]
    fn what_the_template_refuses_is_told_from_what_it_cannot_do() {
        let refusing =
            ChatTemplate::new("{{ raise_exception('roles must alternate') }}", "", "").unwrap();
        let error = refusing.render(&[], &Map::new()).unwrap_err();
        assert!(
            matches!(&error, TemplateError::Refused(words) if words == "roles must alternate"),
            "{error:?}"
        );
        let broken = ChatTemplate::new("{{ nobody_has_this() }}", "", "").unwrap();
        assert!(matches!(
            broken.render(&[], &Map::new()),
            Err(TemplateError::Broken(_))
        ));
        assert!(ChatTemplate::new("{% if %}", "", "").is_err());
    }

    #[test]
    fn a_template_without_end_runs_out_of_fuel() {
        let source =
            "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        let endless = ChatTemplate::new(source, "", "").unwrap();
        assert!(matches!(
            endless.render(&[], &Map::new()),
            Err(TemplateError::Broken(_))
        ));
    }

    #[test]
    fn the_date_is_todays() {
        let template = ChatTemplate::new("{{ strftime_now('%Y') }}", "", "").unwrap();
        let year: i16 = template.render(&[], &Map::new()).unwrap().parse().unwrap();
        assert!((jiff::Zoned::now().year() - year).abs() <= 1);
    }
}
