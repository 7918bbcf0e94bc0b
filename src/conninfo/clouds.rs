//! Connection strings as cloud providers, drivers and their manuals print them. Each is accepted with its intended
//! meaning, or refused with advice on what to write instead.

use std::collections::BTreeMap;

use super::{Connection, SessionAttrs, SslMode, SslNegotiation, params::Params, value::ValueSource};

/// The expected result of a connection string.
enum Expected {
    /// A connection with these hosts, this database, role and `sslmode`.
    Taken(&'static str, &'static str, &'static str, SslMode),
    /// A message with these words.
    Refused(&'static str),
}

use Expected::{Refused, Taken};
use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};

/// A part of each password. No message may contain it.
const CANARY: &str = "canary";

/// The origin, the text and the expected result of each string. `CA` in a text stands for the path of a file that
/// exists.
#[rustfmt::skip]
const STRINGS: &[(&str, &str, Expected)] = &[
    // Strings of cloud providers.
    ("RDS, psql", "host=db.abc.eu-west-1.rds.amazonaws.com port=5432 dbname=app user=me password=canary sslmode=verify-full sslrootcert=CA", Taken("db.abc.eu-west-1.rds.amazonaws.com:5432", "app", "me", VerifyFull)),
    ("RDS, URL", "postgresql://me:canary@db.abc.eu-west-1.rds.amazonaws.com:5432/app?sslmode=require", Taken("db.abc.eu-west-1.rds.amazonaws.com:5432", "app", "me", Require)),
    ("RDS without sslmode", "postgres://me:canary@db.abc.eu-west-1.rds.amazonaws.com/app", Refused("sslmode: is missing; it must be set for a server that is not on this machine")),
    ("Aurora, writer and reader", "postgresql://me:canary@app.cluster-abc.rds.amazonaws.com,app.cluster-ro-abc.rds.amazonaws.com/app?target_session_attrs=prefer-standby&sslmode=require", Taken("app.cluster-abc.rds.amazonaws.com:5432, app.cluster-ro-abc.rds.amazonaws.com:5432", "app", "me", Require)),
    ("Aurora, IAM token", "host=h.rds.amazonaws.com user=me password='h:5432/?Action=connect&X-Amz-Signature=canary' sslmode=verify-ca sslrootcert=CA", Taken("h.rds.amazonaws.com:5432", "me", "me", VerifyCa)),
    ("AWS JDBC wrapper", "jdbc:aws-wrapper:postgresql://h.rds.amazonaws.com:5432/app?user=me&password=canary", Refused("write postgresql:// and what stands behind ://")),
    ("Cloud SQL, socket", "postgresql+psycopg2://me:canary@/app?host=/cloudsql/project:region:instance", Taken("/cloudsql/project:region:instance/.s.PGSQL.5432", "app", "me", Prefer)),
    ("Cloud SQL, pg8000", "postgresql+pg8000://me:canary@/app?unix_sock=/cloudsql/project:region:instance/.s.PGSQL.5432", Refused("of pg8000, which PostgreSQL does not know: write host=DIRECTORY")),
    ("Cloud SQL, JDBC", "jdbc:postgresql:///app?cloudSqlInstance=p:r:i&socketFactory=com.google.cloud.sql.postgres.SocketFactory&user=me&password=canary", Refused("write host=/cloudsql/PROJECT:REGION:INSTANCE")),
    ("Cloud SQL, hostaddr", "sslmode=verify-ca sslrootcert=CA hostaddr=203.0.113.7 port=5432 user=me dbname=app password=canary", Taken("203.0.113.7:5432", "app", "me", VerifyCa)),
    ("AlloyDB proxy", "host=127.0.0.1 port=5432 user=me password=canary dbname=app sslmode=disable", Taken("127.0.0.1:5432", "app", "me", Disable)),
    ("Azure, psql", "host=srv.postgres.database.azure.com port=5432 dbname=app user=me password=canary sslmode=require", Taken("srv.postgres.database.azure.com:5432", "app", "me", Require)),
    ("Azure, single server", "host=srv.postgres.database.azure.com port=5432 dbname=app user=me@srv password=canary sslmode=require", Taken("srv.postgres.database.azure.com:5432", "app", "me@srv", Require)),
    ("Azure, ADO.NET", "Server=srv.postgres.database.azure.com;Database=app;Port=5432;User Id=me;Password=canary;Ssl Mode=Require;", Refused("separated by ;, as Npgsql and ODBC take them: write host=")),
    ("Azure, JDBC", "jdbc:postgresql://srv.postgres.database.azure.com:5432/app?user=me&password=canary&sslmode=require", Taken("srv.postgres.database.azure.com:5432", "app", "me", Require)),
    ("Azure, Python", "dbname='app' user='me' host='srv.postgres.database.azure.com' password='canary' port='5432' sslmode='true'", Refused("sslmode: must be one of disable, prefer, require, verify-ca, verify-full; did you mean require?")),
    ("Azure, placeholder", "host=srv.postgres.database.azure.com port=5432 dbname=app user=me password={your_password} sslmode=require", Refused("password: is a placeholder of the page that it was copied from")),
    ("Azure, PDO", "pgsql:host=srv.postgres.database.azure.com;port=5432;dbname=app;sslmode=require", Refused("of PHP's PDO: write host=")),
    ("Supabase, direct", "postgresql://postgres:[YOUR-PASSWORD]@db.abc.supabase.co:5432/postgres?sslmode=require", Refused("password: is a placeholder")),
    ("Supabase, pooler", "postgresql://postgres.abc:canary@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?sslmode=require", Taken("aws-0-eu-central-1.pooler.supabase.com:6543", "postgres", "postgres.abc", Require)),
    ("Supabase, Prisma", "postgres://postgres.abc:canary@aws-0.pooler.supabase.com:6543/postgres?pgbouncer=true&sslmode=require", Refused("the parameter pgbouncer of Prisma, which PostgreSQL does not know: leave it out")),
    ("Supabase on Vercel", "postgres://postgres.abc:canary@aws-0.pooler.supabase.com:6543/postgres?sslmode=require&supa=base-pooler.x", Refused("supa of Vercel and Supabase")),
    ("Neon", "postgresql://owner:npg_canary@ep-a-123-pooler.eu-central-1.aws.neon.tech/db?sslmode=require&channel_binding=require", Taken("ep-a-123-pooler.eu-central-1.aws.neon.tech:5432", "db", "owner", Require)),
    ("Neon, endpoint", "postgres://owner:canary@ep-a-123.eu-central-1.aws.neon.tech/db?sslmode=verify-full&options=endpoint%3Dep-a-123", Taken("ep-a-123.eu-central-1.aws.neon.tech:5432", "db", "owner", VerifyFull)),
    ("Neon, psql", "psql 'postgresql://owner:canary@ep-a-123.eu-central-1.aws.neon.tech/db?sslmode=require'", Refused("starts with psql, which is of the program psql: give only what stands behind it")),
    ("Heroku", "postgres://u:canary@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d", Refused("sslmode: is missing")),
    ("Heroku, sslmode", "postgres://u:canary@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d?sslmode=require", Taken("ec2-1-2-3-4.compute-1.amazonaws.com:5432", "d", "u", Require)),
    ("Heroku, node-postgres", "postgres://u:canary@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d?sslmode=no-verify", Refused("did you mean require?")),
    ("Crunchy Bridge", "postgres://application:canary@p.abc.db.postgresbridge.com:5432/postgres?sslmode=require", Taken("p.abc.db.postgresbridge.com:5432", "postgres", "application", Require)),
    ("DigitalOcean", "postgresql://doadmin:canary@db-do-user-1-0.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require", Taken("db-do-user-1-0.b.db.ondigitalocean.com:25060", "defaultdb", "doadmin", Require)),
    ("DigitalOcean, flags", "username = doadmin password = canary host = h.db.ondigitalocean.com port = 25060 database = defaultdb sslmode = require", Refused("has the unknown parameter \"username\"; did you mean user?")),
    ("Aiven", "postgres://avnadmin:canary@pg-1-abc.aivencloud.com:12691/defaultdb?sslmode=require", Taken("pg-1-abc.aivencloud.com:12691", "defaultdb", "avnadmin", Require)),
    ("Timescale", "postgres://tsdbadmin:canary@abc.def.tsdb.cloud.timescale.com:33333/tsdb?sslmode=require", Taken("abc.def.tsdb.cloud.timescale.com:33333", "tsdb", "tsdbadmin", Require)),
    ("CockroachDB", "postgresql://u:canary@free-tier.gcp.cockroachlabs.cloud:26257/defaultdb?sslmode=verify-full&sslrootcert=CA", Taken("free-tier.gcp.cockroachlabs.cloud:26257", "defaultdb", "u", VerifyFull)),
    ("CockroachDB, home", "postgresql://u:canary@h.cockroachlabs.cloud:26257/d?sslmode=verify-full&sslrootcert=$HOME/.postgresql/root.crt", Refused("~ and variables are not expanded, write the whole path")),
    ("CockroachDB, cluster", "postgresql://u:canary@h.cockroachlabs.cloud:26257/d?sslmode=verify-full&options=--cluster%3Dabc-1", Refused("for CockroachDB write dbname=CLUSTER.DATABASE")),
    ("CockroachDB, SQLAlchemy", "cockroachdb://u:canary@h.cockroachlabs.cloud:26257/d?sslmode=verify-full", Refused("write postgresql:// in its place")),
    ("YugabyteDB", "postgresql://admin:canary@h.aws.ybdb.io:5433/yugabyte?sslmode=verify-full&sslrootcert=CA&load_balance=true", Refused("load_balance of YugabyteDB")),
    ("Railway", "postgresql://postgres:canary@containers-us-west-1.railway.app:6000/railway?sslmode=require&connect_timeout=10", Taken("containers-us-west-1.railway.app:6000", "railway", "postgres", Require)),
    ("Render", "postgres://u:canary@dpg-abc-a.frankfurt-postgres.render.com/d?sslmode=require&connect_timeout=0", Taken("dpg-abc-a.frankfurt-postgres.render.com:5432", "d", "u", Require)),
    ("Fly.io", "postgres://u:canary@app-db.flycast:5432/d?sslmode=disable", Taken("app-db.flycast:5432", "d", "u", Disable)),
    ("Several hosts", "postgresql://u:canary@a:5432,b:5433,c/d?target_session_attrs=read-write&sslmode=require&load_balance_hosts=disable", Taken("a:5432, b:5433, c:5432", "d", "u", Require)),
    ("In the cluster", "postgresql://u:canary@app-rw.db.svc.cluster.local:5432/app?sslmode=verify-full&sslrootcert=CA", Taken("app-rw.db.svc.cluster.local:5432", "app", "u", VerifyFull)),
    // Strings of drivers.
    ("libpq, direct TLS", "postgresql://u:canary@h/d?sslmode=verify-full&sslrootcert=system&sslnegotiation=direct", Taken("h:5432", "d", "u", VerifyFull)),
    ("libpq, direct TLS, weak", "postgresql://u:canary@localhost/d?sslmode=prefer&sslnegotiation=direct", Refused("direct needs sslmode=require, verify-ca or verify-full")),
    ("libpq, keepalives", "postgresql://u:canary@h/d?sslmode=require&keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5&tcp_user_timeout=20000", Taken("h:5432", "d", "u", Require)),
    ("libpq, require_auth", "postgresql://u:canary@h/d?sslmode=require&require_auth=scram-sha-256", Refused("the parameter require_auth, which is not supported: the way of authentication cannot be chosen")),
    ("libpq, service", "service=production", Refused("there are no service files here; write its parameters")),
    ("libpq, -c", "postgresql://u:canary@h/d?sslmode=require&options=-c%20search_path%3Dapp", Refused("set search_path in databases")),
    ("SQLAlchemy, psycopg", "postgresql+psycopg://u:canary@h/d?sslmode=verify-ca&sslrootcert=CA", Taken("h:5432", "d", "u", VerifyCa)),
    ("SQLAlchemy, asyncpg", "postgresql+asyncpg://u:canary@h/d?ssl=require", Refused("write sslmode=require")),
    ("JDBC", "jdbc:postgresql://h:5432/d?user=u&password=canary&ssl=true", Refused("the parameter ssl of JDBC and node-postgres")),
    ("JDBC, targetServerType", "jdbc:postgresql://a,b/d?user=u&password=canary&sslmode=verify-full&targetServerType=primary", Refused("write target_session_attrs")),
    ("Npgsql", "Host=h;Username=u;Password=canary;Database=d;SSL Mode=VerifyFull", Refused("separated by ;")),
    ("ODBC", "Driver={PostgreSQL Unicode};Server=h;Port=5432;Database=d;Uid=u;Pwd=canary;sslmode=require", Refused("separated by ;")),
    ("Prisma", "postgresql://u:canary@h:5432/d?schema=public&sslmode=require", Refused("the parameter schema of Prisma, which PostgreSQL does not know: write search_path in databases")),
    ("pgx", "postgres://u:canary@h:5432/d?sslmode=verify-ca&sslrootcert=CA&pool_max_conns=10", Refused("the parameter pool_max_conns of pgx")),
    ("lib/pq", "user=u password=canary host=h dbname=d sslmode=require binary_parameters=yes", Refused("binary_parameters of lib/pq")),
    ("GORM", "host=h user=u password=canary dbname=d port=9920 sslmode=disable TimeZone=Asia/Shanghai", Refused("TimeZone of GORM")),
    ("Ecto", "ecto://u:canary@h/d", Refused("starts with ecto://, which is of Ecto: write postgresql:// in its place")),
    ("Rails", "postgresql://u:canary@h/d?sslmode=require&pool=5", Refused("the parameter pool of Rails")),
    ("Django", "postgis://u:canary@h/d", Refused("write postgresql:// in its place")),
    ("Node", "postgres://u:canary@h/d?sslmode=require&uselibpqcompat=true", Refused("uselibpqcompat of node-postgres")),
    ("R2DBC", "r2dbc:postgresql://u:canary@h/d", Refused("of R2DBC")),
    ("A template", "postgresql://u:${DB_PASSWORD}@h/d?sslmode=require", Refused("password: is a variable's name, which nothing replaces here; write {env: NAME}")),
    ("Spring", "${JDBC_URL}", Refused("must start with postgres://")),
];

fn assembled(text: &str) -> Result<Connection, String> {
    let url = ValueSource::plain(text.replace("=CA", concat!("=", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")));
    let params = Params { texts: BTreeMap::from([("url", url)]), ..Params::default() };
    let sentence = |problem: &super::params::Problem| format!("{}: {}", problem.key, problem.message);
    params
        .assemble()
        .map(|(connection, _)| connection)
        .map_err(|problems| problems.iter().map(sentence).collect::<Vec<_>>().join("; "))
}

#[test]
fn each_string_is_taken_as_it_is_meant_or_refused_with_what_to_write() {
    let mut wrong = Vec::new();
    for (who, text, expected) in STRINGS {
        match (assembled(text), expected) {
            (Ok(connection), Taken(hosts, dbname, user, sslmode)) => {
                let addresses: Vec<String> = connection.addresses.iter().map(ToString::to_string).collect();
                let taken = (addresses.join(", "), connection.dbname.as_str(), connection.user.as_str());
                if taken != ((*hosts).to_owned(), *dbname, *user) || connection.sslmode != *sslmode {
                    wrong.push(format!("{who}: {connection:?}"));
                }
            }
            (Err(message), Refused(words)) if message.contains(words) && !message.contains(CANARY) => {}
            (Ok(_), Refused(words)) => wrong.push(format!("{who}: taken, and not refused with {words}")),
            (Err(message), _) => wrong.push(format!("{who}: {message}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_string_says_beyond_the_address_is_kept() {
    let of = |who: &str| {
        let (_, text, _) = STRINGS.iter().find(|(name, _, _)| *name == who).expect("it is in the table");
        assembled(text).expect("a connection")
    };
    assert_eq!(of("libpq, direct TLS").sslnegotiation, SslNegotiation::Direct);
    assert_eq!(of("Aurora, writer and reader").target_session_attrs, SessionAttrs::PreferStandby);
    assert_eq!(of("Neon, endpoint").options.as_deref(), Some("endpoint=ep-a-123"));
    let tcp = of("libpq, keepalives").tcp;
    assert_eq!(tcp.keepalives_idle.map(|idle| idle.as_secs()), Some(30));
    assert_eq!((tcp.keepalives_count, tcp.user_timeout.map(|time| time.as_secs())), (Some(5), Some(20)));
}
