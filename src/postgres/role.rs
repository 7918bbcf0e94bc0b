//! The privileges of the scaler's role beyond reading.
//!
//! The role is the boundary, and READ ONLY is not: a superuser can run `COPY ... TO PROGRAM` in a read-only
//! transaction.

use tokio_postgres::{Client, Error};

const PRIVILEGES: &str = "\
-- clapometer: role check
SELECT r.rolsuper,
       EXISTS (SELECT FROM pg_roles AS s WHERE s.rolsuper AND pg_has_role(r.oid, s.oid, 'MEMBER')),
       pg_has_role(r.oid, 'pg_read_server_files', 'MEMBER'),
       pg_has_role(r.oid, 'pg_write_server_files', 'MEMBER'),
       pg_has_role(r.oid, 'pg_execute_server_program', 'MEMBER'),
       EXISTS (SELECT
                 FROM pg_proc AS p
                WHERE p.pronamespace = 'pg_catalog'::regnamespace
                  AND p.proname IN ('pg_read_file', 'pg_read_binary_file', 'pg_file_write', 'lo_import', 'lo_export')
                  AND has_function_privilege(r.oid, p.oid, 'EXECUTE'))
  FROM pg_roles AS r
 WHERE r.rolname = current_user";

/// The names of the columns of [`PRIVILEGES`]. Each of the first two implies all that follow, and stands alone.
const NAMES: [&str; 6] = [
    "superuser",
    "member of a superuser",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
    "functions on the server's files",
];

/// The privileges of a role that a scaler must not need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privileges(Vec<&'static str>);

impl Privileges {
    /// Asks the server about the session's role.
    pub(super) async fn of(client: &Client) -> Result<Self, Error> {
        let Some(row) = client.query_typed_opt(PRIVILEGES, &[]).await? else {
            return Ok(Self(Vec::new()));
        };
        let mut held = Vec::new();
        for (index, name) in NAMES.into_iter().enumerate() {
            if row.try_get(index)? {
                held.push(name);
                if index < 2 {
                    break;
                }
            }
        }
        Ok(Self(held))
    }

    /// Returns their names. A superuser, or a member of one, has only that one.
    pub fn names(&self) -> &[&'static str] {
        &self.0
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Privileges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}
