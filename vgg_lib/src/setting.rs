//! Settings from environment variables. A value that means nothing is an error: a notebook must not train for an hour
//! with other settings than the reader asked for. A variable without a value counts as not set.

use std::env;

use crate::{Error, Result};

/// Whether a switch such as `VGG_QUICK` is on: 1, true, yes or on. 0, false, no and off turn it off, as does a variable
/// that is not set.
///
/// # Errors
/// [`Error::Config`] for any other value.
///
/// ```
/// use vgg_lib::setting;
/// assert!(!setting::is_on("VGG_NOT_SET")?);
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn is_on(variable: &str) -> Result<bool> {
    let Some(value) = value(variable)? else { return Ok(false) };
    switch(variable, &value)
}

/// A whole number of at least 1, such as `VGG_EPOCHS=3`; `None` if the variable is not set.
///
/// # Errors
/// [`Error::Config`] for any other value.
pub fn number(variable: &str) -> Result<Option<usize>> {
    value(variable)?.map(|value| whole_number(variable, &value)).transpose()
}

/// One of the `choices`, such as `VGG_DEVICE=cpu` of "auto", "cpu" and "gpu"; the first one if the variable is not set.
///
/// # Errors
/// [`Error::Config`] for any other value.
pub fn choice<'a>(variable: &str, choices: &[&'a str]) -> Result<&'a str> {
    let default = choices.first().copied().unwrap_or_default();
    value(variable)?.map_or(Ok(default), |value| one_of(variable, &value, choices))
}

fn value(variable: &str) -> Result<Option<String>> {
    let Some(value) = env::var_os(variable) else { return Ok(None) };
    let value = value.into_string().map_err(|value| fault(variable, &value.to_string_lossy(), "use plain text"))?;
    let value = value.trim();
    Ok((!value.is_empty()).then(|| value.to_string()))
}

fn switch(variable: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(fault(variable, value, "set it to 1 (on) or 0 (off)")),
    }
}

fn whole_number(variable: &str, value: &str) -> Result<usize> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(fault(variable, value, "set it to a whole number of at least 1")),
    }
}

fn one_of<'a>(variable: &str, value: &str, choices: &[&'a str]) -> Result<&'a str> {
    let found = choices.iter().find(|&&choice| choice == value);
    found.copied().ok_or_else(|| fault(variable, value, &format!("set it to {}", choices.join(" or "))))
}

fn fault(variable: &str, value: &str, help: &str) -> Error {
    Error::Config(format!("the environment variable {variable} is '{value}'; {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_switch_is_on_or_off() {
        for (value, on) in [("1", true), ("True", true), ("on", true), ("0", false), ("no", false), ("OFF", false)] {
            assert_eq!(switch("VGG_QUICK", value).unwrap(), on, "{value}");
        }
        let expected = "the environment variable VGG_QUICK is '2'; set it to 1 (on) or 0 (off)";
        assert_eq!(message(switch("VGG_QUICK", "2")), expected);
    }

    #[test]
    fn a_number_is_whole_and_positive() {
        assert_eq!(whole_number("VGG_EPOCHS", "3").unwrap(), 3);
        for value in ["abc", "0", "-1", "1.5", "3 epochs", "99999999999999999999"] {
            let expected =
                format!("the environment variable VGG_EPOCHS is '{value}'; set it to a whole number of at least 1");
            assert_eq!(message(whole_number("VGG_EPOCHS", value)), expected);
        }
    }

    #[test]
    fn a_choice_is_one_of_the_names() {
        let choices = ["auto", "cpu", "gpu"];
        assert_eq!(one_of("VGG_DEVICE", "cpu", &choices).unwrap(), "cpu");
        let expected = "the environment variable VGG_DEVICE is 'CPU'; set it to auto or cpu or gpu";
        assert_eq!(message(one_of("VGG_DEVICE", "CPU", &choices)), expected);
    }

    #[test]
    fn a_variable_that_is_not_set_is_the_default() {
        const NAME: &str = "VGG_TEST_NOT_SET";
        assert!(!is_on(NAME).unwrap());
        assert_eq!((number(NAME).unwrap(), choice(NAME, &["auto", "cpu"]).unwrap()), (None, "auto"));
    }
}
