//! Panics of decoders. They are other people's code on other people's files, and now and then one panics where it should
//! return an error. One such file must not end the load of a whole folder.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// Whether this thread runs a decoder.
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// The result of `run`, or the message of its panic, which is not printed: a notebook would show it as if the cell had
/// failed.
///
/// The hook that prints panics belongs to the whole process. The first call puts one before it that stays silent for
/// threads that are inside of this function and passes everything else on.
pub(super) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // The thread may be ending, so its variables may be gone.
            if !SILENT.try_with(Cell::get).unwrap_or(false) {
                print(info);
            }
        }));
    });
    let before = SILENT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    SILENT.set(before);
    result.map_err(|panic| message(panic.as_ref()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    crate::text::printable(text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_messages_are_passed_on() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| -> u8 { panic!("index {} of {}", 3, 2) }), Err("index 3 of 2".to_string()));
        assert_eq!(caught(|| -> u8 { panic!("first line\nsecond") }), Err("first line?second".to_string()));
        assert_eq!(caught(|| -> u8 { panic::panic_any(5) }), Err("no message".to_string()));
        let nested = caught(|| (caught(|| -> u8 { panic!("inner") }), SILENT.get()));
        assert_eq!(nested, Ok((Err("inner".to_string()), true)));
        assert!(!SILENT.get());
    }

    #[test]
    #[ignore = "run by the next test, which reads what it prints"]
    fn panics_inside_and_outside() {
        let _ = caught(|| panic!("inside"));
        let _ = panic::catch_unwind(|| panic!("outside"));
    }

    #[test]
    fn only_panics_outside_are_printed() {
        let test = "data::panics::tests::panics_inside_and_outside";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", test, "--ignored", "--nocapture"]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && printed.contains("outside") && !printed.contains("inside\n"), "{printed}");
    }
}
