//! A database for each test, and the ways to reach it.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio_postgres::{Client, NoTls};

use super::cluster::{Cluster, OWNER_PASSWORD, SCALER_PASSWORD, SUPERUSER_PASSWORD};

/// The seed's two tables, unchanged.
pub(crate) const SEED_TABLES: &str = "
    CREATE TABLE make_it_clap (
        id serial PRIMARY KEY,
        duration_seconds integer NOT NULL
    );
    CREATE TABLE clap (
        id integer PRIMARY KEY,
        status text NOT NULL,
        session_id bigint NOT NULL,
        creation_date date NOT NULL DEFAULT current_date,
        creation_time time NOT NULL DEFAULT current_time,
        end_time time
    );
    GRANT SELECT ON make_it_clap, clap TO scaler;
";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database of a cluster, owned by the role `owner`; it goes when the cluster goes.
#[derive(Debug)]
pub(crate) struct Database<'cluster> {
    cluster: &'cluster Cluster,
    name: String,
}

impl<'cluster> Database<'cluster> {
    /// Makes an empty one.
    pub(crate) async fn empty(cluster: &'cluster Cluster) -> Self {
        Self::create(cluster, "template1").await
    }

    /// Makes one with the seed's tables, empty.
    pub(crate) async fn seed(cluster: &'cluster Cluster) -> Self {
        Self::like(cluster, "seed_template", async |template| {
            template.connect().await.batch_execute(SEED_TABLES).await.expect("the seed's tables are sound");
        })
        .await
    }

    /// Makes a copy of the template of that name; the first who asks in a cluster prepares it.
    ///
    /// `prepare` must leave no connection open: PostgreSQL copies no database that is in use.
    pub(crate) async fn like(cluster: &'cluster Cluster, template: &str, prepare: impl AsyncFnOnce(&Self)) -> Self {
        let mut templates = cluster.templates.lock().await;
        if !templates.iter().any(|ready| ready == template) {
            let database = Self::create_named(cluster, template, "template1").await;
            prepare(&database).await;
            database.disconnect_everybody().await;
            templates.push(template.to_owned());
        }
        drop(templates);
        Self::create(cluster, template).await
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the cluster that it is in.
    pub(crate) fn cluster(&self) -> &'cluster Cluster {
        self.cluster
    }

    /// Connects as the superuser, by the Unix socket.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.cluster.superuser(&self.name)).await
    }

    /// Runs statements as the superuser.
    pub(crate) async fn execute(&self, statements: &str) {
        let result = self.connect().await.batch_execute(statements).await;
        result.unwrap_or_else(|error| panic!("{statements} failed: {error:?}"));
    }

    /// Returns the only column of the only row.
    pub(crate) async fn value<T>(&self, query: &str) -> T
    where
        T: for<'row> tokio_postgres::types::FromSql<'row>,
    {
        let row = self.connect().await.query_one(query, &[]).await;
        row.unwrap_or_else(|error| panic!("{query} failed: {error:?}")).get(0)
    }

    /// Returns the way in which the role without privileges connects, over TCP with its password.
    pub(crate) fn scaler(&self) -> Access {
        self.access("scaler", SCALER_PASSWORD)
    }

    /// Returns the way in which the databases' owner connects, over TCP with its password.
    pub(crate) fn owner(&self) -> Access {
        self.access("owner", OWNER_PASSWORD)
    }

    /// Returns the way in which the superuser connects, over TCP with its password.
    pub(crate) fn superuser(&self) -> Access {
        self.access("postgres", SUPERUSER_PASSWORD)
    }

    fn access(&self, user: &str, password: &str) -> Access {
        Access {
            host: "127.0.0.1".to_owned(),
            port: self.cluster.port(),
            dbname: self.name.clone(),
            user: user.to_owned(),
            password: password.to_owned(),
            further: Vec::new(),
        }
    }

    async fn create(cluster: &'cluster Cluster, template: &str) -> Self {
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::create_named(cluster, &name, template).await
    }

    async fn create_named(cluster: &'cluster Cluster, name: &str, template: &str) -> Self {
        let statement = format!("CREATE DATABASE {name} OWNER owner TEMPLATE {template}");
        let created = connect(&cluster.superuser("postgres")).await.batch_execute(&statement).await;
        created.unwrap_or_else(|error| panic!("{statement} failed: {error:?}"));
        let database = Self { cluster, name: name.to_owned() };
        // Since PostgreSQL 15 only a database's owner may create in its schema public.
        database.execute("GRANT ALL ON SCHEMA public TO owner").await;
        database
    }

    async fn disconnect_everybody(&self) {
        let client = connect(&self.cluster.superuser("postgres")).await;
        super::wait::first("nobody is connected to the template", std::time::Duration::from_secs(10), async || {
            let statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
            client.query(statement, &[&self.name]).await.expect("a superuser may").is_empty().then_some(())
        })
        .await;
    }
}

/// One way to connect, in the form of each program.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) dbname: String,
    pub(crate) user: String,
    pub(crate) password: String,
    further: Vec<(String, String)>,
}

impl Access {
    /// Returns the same through another port on 127.0.0.1, that of a proxy or a pooler.
    pub(crate) fn by_way_of(mut self, address: std::net::SocketAddr) -> Self {
        self.host = address.ip().to_string();
        self.port = address.port();
        self
    }

    /// Returns the same with a name as host.
    pub(crate) fn at(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Returns the same with another password.
    pub(crate) fn with_password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    /// Returns the same with one more key of a database in the configuration, for example `pool_size`; the value is
    /// YAML.
    pub(crate) fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.further.push((key.to_owned(), value.to_string()));
        self
    }

    /// Returns an entry of the configuration's `databases`, indented for it.
    pub(crate) fn yaml(&self, name: &str) -> String {
        let Self { host, port, dbname, user, password, further } = self;
        let mut text = format!("  {name}:\n    host: {host}\n    dbname: {dbname}\n    user: {user}\n");
        writeln!(text, "    password: {password}").expect("a string takes everything");
        for (key, usual) in [("port", port.to_string()), ("sslmode", "disable".to_owned())] {
            if !further.iter().any(|(further, _)| further == key) {
                writeln!(text, "    {key}: {usual}").expect("a string takes everything");
            }
        }
        for (key, value) in further {
            writeln!(text, "    {key}: {value}").expect("a string takes everything");
        }
        text
    }

    /// Returns libpq's environment variables.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.to_string()),
            ("PGDATABASE", self.dbname.clone()),
            ("PGUSER", self.user.clone()),
            ("PGPASSWORD", self.password.clone()),
            ("PGSSLMODE", "disable".to_owned()),
        ]
    }

    /// Returns the configuration of the driver.
    pub(crate) fn driver(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).dbname(&self.dbname).user(&self.user).password(&self.password);
        config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        config
    }
}

/// Connects, and drives the connection until its client is dropped.
///
/// # Panics
/// When it cannot connect.
pub(crate) async fn connect(config: &tokio_postgres::Config) -> Client {
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.unwrap_or_else(|error| panic!("cannot connect: {error:?}"));
    tokio::spawn(connection);
    client
}

#[cfg(test)]
mod tests {
    use super::{Cluster, Database, connect};

    #[tokio::test]
    async fn tests_do_not_see_each_others_rows() {
        let cluster = Cluster::shared().await;
        let (first, second) = tokio::join!(Database::seed(cluster), Database::seed(cluster));
        first.execute("INSERT INTO make_it_clap (duration_seconds) VALUES (40)").await;
        assert_eq!(first.value::<i64>("SELECT count(*) FROM make_it_clap").await, 1);
        assert_eq!(second.value::<i64>("SELECT count(*) FROM make_it_clap").await, 0);
    }

    #[tokio::test]
    async fn the_scaler_reads_the_seeds_tables_and_writes_nothing() {
        let database = Database::seed(Cluster::shared().await).await;
        let client = connect(&database.scaler().driver()).await;
        client.batch_execute("SELECT * FROM make_it_clap, clap").await.unwrap();
        let refused = client.batch_execute("INSERT INTO make_it_clap (duration_seconds) VALUES (1)").await.unwrap_err();
        assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE));
    }

    #[tokio::test]
    async fn a_wrong_password_is_refused() {
        let database = Database::empty(Cluster::shared().await).await;
        let refused = database.owner().with_password("wrong").driver().connect(tokio_postgres::NoTls).await;
        assert_eq!(refused.err().unwrap().code(), Some(&tokio_postgres::error::SqlState::INVALID_PASSWORD));
    }
}
