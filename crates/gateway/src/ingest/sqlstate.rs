//! What PostgreSQL's refusal means to the client: one table over SQLSTATE.
//!
//! Its message names the value, which the client sent itself. Detail, hint and context stay here:
//! the detail of a violated constraint shows the whole row, with columns that this client may not
//! even know of.

use tokio_postgres::error::DbError;

use super::refusal::{Kind, Refusal};

const MAX_MESSAGE_CHARS: usize = 300;

/// What to answer, and whether the fault is in the configuration or the database, so that somebody
/// must see it in the log.
pub(super) fn refusal(error: &DbError) -> (Refusal, bool) {
    let kind = kind(error.code().code());
    let message = match (error.code().code(), error.column(), error.constraint()) {
        ("23502", Some(column), _) => format!("the column '{column}' is missing or null, and must not be"),
        ("23514", _, Some(constraint)) => format!("the row violates the check '{constraint}'"),
        ("57014", ..) => "the database took too long; nothing was stored".into(),
        _ if matches!(kind, Kind::BadRow | Kind::Conflict) => error.message().chars().take(MAX_MESSAGE_CHARS).collect(),
        _ if kind == Kind::NotReady => "the database cannot store this row now; nothing was stored".into(),
        _ => "the database could not store this row".into(),
    };
    let for_the_log = matches!(kind, Kind::Internal | Kind::NotReady);
    (Refusal::new(kind, message), for_the_log)
}

fn kind(sqlstate: &str) -> Kind {
    match sqlstate {
        // Unique, exclusion, foreign key.
        "23505" | "23P01" | "23503" => Kind::Conflict,
        // Null, check, and whatever else the table's own rules say; a view's check option; a
        // trigger's RAISE EXCEPTION, which is how triggers refuse a row.
        "44000" | "P0001" => Kind::BadRow,
        _ => match sqlstate.get(..2).unwrap_or_default() {
            // Data exceptions: not a number, out of range, too long, a NOTIFY payload of 8000 bytes.
            "22" | "23" => Kind::BadRow,
            // Program limits: a value too long for its index, JSON nested too deep.
            "54" => Kind::BadRow,
            // Read-only, deadlock, out of resources, interrupted, shutting down, connection.
            "08" | "25" | "40" | "53" | "55" | "57" | "58" => Kind::NotReady,
            // No such table or column, no right to it, a feature that is not there: until somebody
            // mends the table or rowcast.toml.
            "0A" | "28" | "3D" | "3F" | "42" => Kind::NotReady,
            _ => Kind::Internal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_error_has_its_answer() {
        for (sqlstate, expected) in [
            ("23505", Kind::Conflict), // unique_violation
            ("23P01", Kind::Conflict), // exclusion_violation
            ("23503", Kind::Conflict), // foreign_key_violation
            ("23502", Kind::BadRow),   // not_null_violation
            ("23514", Kind::BadRow),   // check_violation
            ("22P02", Kind::BadRow),   // invalid_text_representation
            ("22003", Kind::BadRow),   // numeric_value_out_of_range
            ("22007", Kind::BadRow),   // invalid_datetime_format
            ("22008", Kind::BadRow),   // datetime_field_overflow
            ("22001", Kind::BadRow),   // string_data_right_truncation
            ("22P05", Kind::BadRow),   // untranslatable_character
            ("P0001", Kind::BadRow),   // raise_exception
            ("54000", Kind::BadRow),   // program_limit_exceeded
            ("42P01", Kind::NotReady), // undefined_table
            ("42703", Kind::NotReady), // undefined_column
            ("42501", Kind::NotReady), // insufficient_privilege
            ("428C9", Kind::NotReady), // generated_always
            ("25006", Kind::NotReady), // read_only_sql_transaction
            ("40P01", Kind::NotReady), // deadlock_detected
            ("57014", Kind::NotReady), // query_canceled
            ("57P01", Kind::NotReady), // admin_shutdown
            ("53300", Kind::NotReady), // too_many_connections
            ("XX000", Kind::Internal), // internal_error
            ("P0002", Kind::Internal), // no_data_found
            ("", Kind::Internal),
        ] {
            assert_eq!(kind(sqlstate), expected, "{sqlstate}");
        }
    }
}
