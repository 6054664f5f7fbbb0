//! A table of figures, each next to the budget it is held against.

/// Prints the title and the head of a table.
pub(super) fn head(title: &str) {
    println!("\n{title}\n{:<52} {:>12} {:>12}", "", "measured", "budget");
}

/// Prints one figure; more than the budget is a failure.
pub(super) fn at_most(what: &str, unit: &str, measured: f64, budget: f64) {
    println!("{}", line(what, unit, measured, budget));
}

/// Prints one figure; less than the goal is a failure.
pub(super) fn at_least(what: &str, unit: &str, measured: f64, goal: f64) {
    let verdict = if measured >= goal { "pass" } else { "FAIL" };
    let what = format!("{what} [{unit}]");
    println!(
        "{what:<52} {:>12} {:>12}  {verdict}",
        number(measured),
        format!(">= {}", number(goal))
    );
}

/// Prints one figure that has no budget.
pub(super) fn fact(what: &str, unit: &str, measured: f64) {
    println!("{:<52} {:>12}", format!("{what} [{unit}]"), number(measured));
}

fn line(what: &str, unit: &str, measured: f64, budget: f64) -> String {
    let verdict = if measured <= budget { "pass" } else { "FAIL" };
    format!(
        "{:<52} {:>12} {:>12}  {verdict}",
        format!("{what} [{unit}]"),
        number(measured),
        number(budget)
    )
}

/// Three digits that matter are enough for a figure of a busy machine.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_held_against_the_budget() {
        assert!(line("a", "s", 1.0, 1.0).ends_with("pass"));
        assert!(line("a", "s", 1.01, 1.0).ends_with("FAIL"));
        assert!(line("a", "s", f64::NAN, 1.0).ends_with("FAIL"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1234.5, 12.34, 1.234, 0.1234].map(number),
            ["1234", "12.3", "1.23", "0.123"]
        );
    }
}
