//! `clapometer init --table`: the template for a table of one's own, and what comes next.

use super::{COMMAND, init, printed, role};
use crate::support::{cluster::Cluster, database::Database, executable::Executable};

/// The question that decides whether KEDA starts anything.
const ACTIVITY: &str = "activity_column: /* outstanding or claimable? */";

/// A part for a table, to be read by the role that each cluster has.
async fn part_of(database: &Database<'_>, table: &str, part: &str) -> String {
    let arguments = ["--table", table, "--role", "scaler", "--print", part];
    printed(&database.superuser(), &arguments).await.output
}

#[tokio::test]
async fn a_table_of_this_name_in_another_schema_is_named() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute("CREATE SCHEMA app; CREATE TABLE app.jobs (state text)").await;
    let refused = init(&database.superuser(), &["--table", "jobs"]).finish(COMMAND).await;
    assert_eq!((refused.code(), &*refused.output), (Some(1), ""));
    assert!(refused.errors.contains("there is no table or view public.jobs"), "{}", refused.errors);
    assert!(refused.errors.contains("-> there is app.jobs: give the schema"), "{}", refused.errors);
}

#[tokio::test]
async fn a_table_that_is_not_there_may_be_a_near_one_or_in_another_database() {
    let database = Database::empty(Cluster::shared().await).await;
    let advice = async |table: &str| {
        let refused = init(&database.superuser(), &["--table", table]).finish(COMMAND).await;
        assert_eq!((refused.code(), &*refused.output), (Some(1), ""));
        refused.errors.lines().skip(1).collect::<Vec<_>>().join("\n")
    };
    let nothing = advice("invoices").await;
    assert!(nothing.contains("-> is it the right database? PGDATABASE names it, and it has no table"), "{nothing}");
    database.execute("CREATE TABLE invoices (id bigint NOT NULL, \"Status\" text)").await;
    for near in ["invoice", "Invoices", "app.invocies"] {
        let advice = advice(near).await;
        assert!(advice.ends_with("-> did you mean public.invoices?"), "{near}: {advice}");
    }
    assert_eq!(advice("outbox").await, "");
    let config = part_of(&database, "invoices", "config").await;
    assert!(config.contains("\n  # id  bigint\n  # \"Status\"  text, may be NULL\n"), "{config}");
    let comments = config.lines().skip_while(|line| *line != "  invoices:").filter(|line| line.contains("# "));
    let long: Vec<&str> = comments.filter(|line| line.len() > 80 && !line.contains("#   ")).collect();
    assert_eq!(long, [""; 0]);
}

#[tokio::test]
async fn a_template_counts_nothing_until_its_questions_are_answered() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute("CREATE TABLE jobs (id bigint)").await;
    let config = part_of(&database, "jobs", "config").await;
    let rows = "queries.jobs.sql: 2 questions are open; write the answers in their places: Which rows could a worker \
                take now? Which rows wait, or does a worker hold? Not those that are done\n";
    let column = "queries.jobs.activity_column: 1 question is open; write the answer in its place: outstanding or \
                  claimable?\n";
    let answered = config.replace(ACTIVITY, "activity_column: claimable");
    // Without a database, a grant and a password, too.
    for arguments in [&["check", "--config", "c.yaml"][..], &["check", "--offline", "--config", "c.yaml"]] {
        for (config, left) in [(&config, &[rows, column][..]), (&answered, &[rows])] {
            let check = Executable::clapometer(arguments.iter().copied()).file("c.yaml", config);
            let checked = check.file("clapometer.password", &database.scaler().password).finish(COMMAND).await;
            assert_eq!((checked.code(), &*checked.output), (Some(78), ""), "{arguments:?}");
            assert_eq!(checked.errors.lines().count(), left.len(), "{}", checked.errors);
            assert!(left.iter().all(|question| checked.errors.contains(question)), "{}", checked.errors);
        }
    }
}

#[tokio::test]
async fn a_template_with_answers_counts_and_the_index_that_it_names_serves_it() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE TABLE jobs (id bigint, state text, run_after timestamptz DEFAULT now());
             INSERT INTO jobs SELECT n, CASE WHEN n > 10010 THEN 'done' WHEN n > 4 THEN 'held' ELSE 'ready' END,
                                     CASE WHEN n % 2 = 0 THEN now() END
                         FROM generate_series(1, 200000) AS n",
        )
        .await;
    let template = part_of(&database, "jobs", "config").await;
    let (_, index) = template.split_once("    #   CREATE INDEX").expect("an index is named");
    database.execute(&format!("CREATE INDEX{}", index.lines().next().unwrap())).await;
    database.execute("VACUUM ANALYZE jobs").await;
    database.execute("GRANT SELECT ON jobs TO scaler").await;
    let template = template.replace(ACTIVITY, "activity_column: outstanding");
    let config = template.replace("/* Which rows could a worker take now? */", "state = 'ready'").replace(
        "/* Which rows wait, or does a worker hold? Not those that are done */",
        "state IS DISTINCT FROM 'done' AND (run_after IS NULL OR run_after <= now())",
    );
    let check = Executable::clapometer(["check", "--config", "c.yaml"]).file("c.yaml", &config);
    let checked = check.file("clapometer.password", &database.scaler().password).finish(COMMAND).await;
    assert_eq!(checked.code(), Some(0), "{config}{}", checked.output);
    assert!(checked.output.contains("10000  active (10000 > 0)"), "the LIMIT counts: {}", checked.output);
    assert!(!checked.output.contains("scans all of"), "{}", checked.output);
}

#[tokio::test]
async fn a_template_names_the_index_that_its_kind_of_table_can_have() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE TABLE parted (state text, run_after timestamptz) PARTITION BY LIST (state);
             CREATE VIEW seen AS SELECT state, run_after FROM parted",
        )
        .await;
    let parted = part_of(&database, "parted", "config").await;
    assert!(parted.contains("    #   CREATE INDEX ON public.parted (run_after)"), "{parted}");
    let seen = part_of(&database, "seen", "config").await;
    assert!(seen.contains("# An index of the table behind it"), "{seen}");
}

#[tokio::test]
async fn a_role_that_exists_keeps_its_password_and_its_owner_is_told_what_to_do() {
    let database = Database::empty(Cluster::shared().await).await;
    database.execute("CREATE TABLE jobs (id bigint); GRANT SELECT ON jobs TO scaler").await;
    let arguments = ["--table", "jobs", "--role", "scaler"];
    let document = printed(&database.superuser(), &arguments).await.output;
    for line in [
        "# the role scaler exists, and init does not know its password\n",
        "#   cp FILE clapometer.password\n",
        "#   (set -C; umask 077; openssl rand -hex 24 >clapometer.password)\n",
        "#   psql -c '\\password scaler'\n",
    ] {
        assert!(document.contains(line), "{line} is missing: {document}");
    }
    let document = printed(&database.scaler(), &arguments).await.output;
    let own = "# the password of scaler, as whom init connects, belongs in the file clapometer.password\n";
    assert!(document.contains(own), "{document}");
}

#[tokio::test]
async fn a_table_of_ones_own_gets_a_template_with_its_columns() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE TYPE stage AS ENUM ('ready', 'it''s running', 'done');
             CREATE SCHEMA app;
             CREATE TABLE app.\"Invoice Jobs\" (id bigint, stage stage, run_after timestamptz, \"who\n\" varchar(20))",
        )
        .await;
    let role = role(&database);
    let arguments = ["--table", "app.Invoice Jobs", "--role", role.as_str()];
    let document = printed(&database.superuser(), &arguments).await.output;
    let document = document
        .replace(&database.name().replace('_', "-"), "DATABASE")
        .replace(database.name(), "DATABASE")
        .replace(&database.cluster().port().to_string(), "PORT");
    insta::assert_snapshot!("own_table", document);
    let sql = printed(&database.superuser(), &[&arguments[..], &["--print", "sql"]].concat()).await.output;
    database.execute(&sql).await;
    let may: bool =
        database.value(&format!("SELECT has_table_privilege('{role}', 'app.\"Invoice Jobs\"', 'SELECT')")).await;
    assert!(may, "{sql}");
    let missing = init(&database.superuser(), &["--table", "app.jobs"]).finish(COMMAND).await;
    assert_eq!((missing.code(), &*missing.output), (Some(1), ""));
    assert!(missing.errors.contains("there is no table or view app.jobs in the database"), "{}", missing.errors);
}
