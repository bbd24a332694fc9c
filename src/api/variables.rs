//! Variables such as `{{name}}` in texts of the resource.

/// `text` with each `{{variable}}` replaced by its value. An unknown variable stays as it is;
/// [`unknown`] finds it beforehand.
pub fn filled(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, variable, after)) = next(rest) {
        filled.push_str(before);
        let value = values.iter().find(|(name, _)| *name == variable.trim());
        match value {
            Some((_, value)) => filled.push_str(value),
            None => filled.push_str(&rest[before.len()..rest.len() - after.len()]),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// Returns the first variable in `text` that is not in `known`.
pub fn unknown<'a>(text: &'a str, known: &[&str]) -> Option<&'a str> {
    let mut rest = text;
    while let Some((_, variable, after)) = next(rest) {
        if !known.contains(&variable.trim()) {
            return Some(variable);
        }
        rest = after;
    }
    None
}

/// Splits a text into what is before its first variable, the variable's name, and what is after it.
fn next(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (variable, after) = rest.split_once("}}")?;
    Some((before, variable, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_once() {
        let values = [("name", "{{revision}}"), ("revision", "0a1b2c3d")];
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{{revision}}", "0a1b2c3d"),
            ("a-{{ revision }}-b", "a-0a1b2c3d-b"),
            ("{{name}}-{{revision}}", "{{revision}}-0a1b2c3d"),
            ("{{other}}-{{revision}}", "{{other}}-0a1b2c3d"),
            ("{{revision", "{{revision"),
            ("}}{{", "}}{{"),
        ] {
            assert_eq!(filled(text, &values), expected);
        }
    }

    #[test]
    fn an_unknown_variable_is_found() {
        assert_eq!(unknown("{{name}} {{ rev }}", &["name"]), Some(" rev "));
        assert_eq!(unknown("{{name}} {{ name }} }}", &["name"]), None);
    }
}
