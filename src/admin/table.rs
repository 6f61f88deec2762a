//! Columns of text for a terminal.

use std::fmt::Write as _;

/// Rows as wide as their widest cell; the first row is the head.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A bar of `width` characters, filled as far as `done` is of `whole`. All of nothing is done.
pub(super) fn bar(done: u64, whole: u64, width: usize) -> String {
    let share = (u128::from(done.min(whole)) * width as u128).checked_div(u128::from(whole));
    let share = share.unwrap_or(width as u128);
    let filled = usize::try_from(share).unwrap_or(width);
    format!("[{}{}]", "#".repeat(filled), ".".repeat(width - filled))
}

#[cfg(test)]
mod tests {
    use super::{bar, table};

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["ID", "STATE", ""], ["a-long-name", "up", ""]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "ID           STATE\na-long-name  up\n");
    }

    #[test]
    fn a_bar_fills_up() {
        for (done, whole, drawn) in [
            (0, 0, "[####]"),
            (0, 8, "[....]"),
            (3, 8, "[#...]"),
            (8, 8, "[####]"),
            (9, 8, "[####]"),
        ] {
            assert_eq!(bar(done, whole, 4), drawn, "{done} of {whole}");
        }
    }
}
