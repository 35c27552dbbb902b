//! The JSON Schema of the file, for editors and for other programs.

use crate::raw::Raw;

/// The JSON Schema of a configuration, indented, with a final line break.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Raw);
    format!("{:#}\n", schema.as_value())
}
