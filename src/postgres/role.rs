//! Whether the scaler's role can do more than read.
//!
//! READ ONLY is no boundary: a superuser runs `COPY ... TO PROGRAM` inside it. The role is.

use tokio_postgres::{Client, Error};

const PRIVILEGES: &str = "\
-- clapometer: role check
SELECT r.rolsuper,
       pg_has_role(r.oid, 'pg_read_server_files', 'MEMBER'),
       pg_has_role(r.oid, 'pg_write_server_files', 'MEMBER'),
       pg_has_role(r.oid, 'pg_execute_server_program', 'MEMBER')
  FROM pg_roles AS r
 WHERE r.rolname = current_user";

/// What a role may do that a scaler must not need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privileges(Vec<&'static str>);

impl Privileges {
    /// Asks the server about the session's role.
    pub(super) async fn of(client: &Client) -> Result<Self, Error> {
        let Some(row) = client.query_typed_opt(PRIVILEGES, &[]).await? else {
            return Ok(Self(Vec::new()));
        };
        let names = ["superuser", "pg_read_server_files", "pg_write_server_files", "pg_execute_server_program"];
        let superuser = row.try_get(0)?;
        let mut held = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            if row.try_get(index)? {
                held.push(name);
            }
            // A superuser is a member of everything; one word says it all.
            if superuser {
                break;
            }
        }
        Ok(Self(held))
    }

    /// Their names; a superuser has only that one.
    pub fn names(&self) -> &[&'static str] {
        &self.0
    }

    /// Whether there is anything to complain about.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Privileges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}
