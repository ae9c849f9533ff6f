//! The page in a browser, and the API compared with its description.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::service::Service;
use crate::workspace::Workspace;
use crate::workspace::wait::wait_with_output;

const TOKEN: &str = "0123456789abcdef-anna";

/// How long a browser or schemathesis may take.
const PATIENCE: Duration = Duration::from_secs(1200);

fn finish(command: &mut Command, what: &str) -> Output {
    let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_with_output(process, what, PATIENCE)
}

/// A goal that fails, one that rejects rows, linked orders, processors, groups.
fn workspace() -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n");
    workspace.write(
        "schema.toml",
        "[properties.email]\nunique = true\n[properties.name]\n[properties.city]\n[properties.spent]\ntype = 'number'\n\
         [events.order.properties.total]\ntype = 'number'\n[objectives.marketing]\n[segments.all]\nwhere = 'has(profile.email)'\n",
    );
    workspace.write(
        "connections/shop.toml",
        "# ours\nname = 'Shop'\n[schedule]\nweekday_of_month = 'second tuesday'\ntime = '02:30'\n\
         timezone = 'Europe/Amsterdam'\n[location]\nkind = 'directory'\npath = 'exchange'\n\
         [[import_profiles]]\nname = 'customers'\nfiles = 'customers*.csv'\nsettle = '0s'\n\
         [[import_profiles.processors]]\nplugin = 'email-normalizer'\nconfig = { columns = ['email'] }\n\
         [[import_profiles.linked]]\nname = 'orders'\nfiles = 'orders*.csv'\ncolumn = 'email'\nparent = 'root'\nparent_column = 'email'\n\
         [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n\
         [[import_profiles.fields]]\ncolumn = 'name' # given and family\n\
         [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n\
         [[import_profiles.events]]\ntype = 'order'\nfile = 'orders'\nid = 'id'\ntime = 'at'\nall_fields = true\n\
         [[export_profiles]]\nname = 'newsletter'\nsegment = 'all'\nfile = 'newsletter.csv'\n\
         [[export_profiles.columns]]\nheader = 'EMAIL'\nproperty = 'email'\n",
    );
    workspace.write(
        "connections/broken.toml",
        "name = 'Broken'\n[location]\nkind = 'directory'\npath = 'exchange'\n[[import_profiles]]\nname = 'stores'\n\
         files = 'stores.csv'\nsettle = '0s'\n[[import_profiles.identifiers]]\ncolumn = 'e-mail'\nproperty = 'email'\n\
         [[import_profiles.fields]]\ncolumn = 'name'\n",
    );
    workspace.write("exchange/stores.csv", "email,name\nx@example.com,X\n");
    let mut customers = String::from("email,name,city,spent,note\n <Ann@EXAMPLE.com> ,Ann,Ghent,1.50,\n");
    for row in 0..120_000 {
        match row % 20_000 {
            19_999 => customers.push_str("too,few\n"),
            _ => customers.push_str(&format!("c{row}@example.com,Name {row},City,1,\n")),
        }
    }
    workspace.write("exchange/customers.csv", customers);
    workspace.write(
        "exchange/orders.csv",
        "email,id,at,total\nc1@example.com,o1,2026-01-02,9.95\nc1@example.com,o2,2026-02-03,20\n",
    );
    workspace
}

#[test]
fn the_page_works_in_a_browser() {
    let workspace = workspace();
    let service = Service::start(&workspace);
    let pictures = std::env::var_os("SLUICEBOX_SCREENSHOTS").expect("`cargo xtask test` sets it");
    let modules = std::env::var_os("SLUICEBOX_BROWSER").expect("`cargo xtask test` sets it");
    let mut browser = Command::new("node");
    browser
        .arg(Workspace::repository().join("tests/page/drive.cjs"))
        .args([service.url.as_ref(), workspace.path().as_os_str(), &pictures])
        .env("NODE_PATH", modules);
    let driven = finish(&mut browser, "the browser");
    let said =
        String::from_utf8_lossy(&driven.stdout).into_owned() + &String::from_utf8_lossy(&driven.stderr);
    assert!(driven.status.success(), "{said}");
    let mapping = std::fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    assert!(mapping.contains("column = 'name' # given and family\nrule = \"set-if-empty\""), "{mapping}");
    assert!(mapping.contains("column = \"city\""), "{mapping}");
}

#[test]
fn the_api_matches_its_description() {
    let workspace = workspace();
    // Small files: each request is sent many times.
    workspace.write(
        "exchange/customers.csv",
        "email,name,city,spent,note\nann@example.com,Ann,Ghent,1.50,\nfew\n",
    );
    workspace.write("token", TOKEN);
    workspace.write("sluicebox.toml", "[server]\ntoken = { file = 'token' }\n");
    let service = Service::start(&workspace);
    let python = std::env::var_os("SLUICEBOX_SERVICE_PYTHON").expect("`cargo xtask test` sets it");
    let schemathesis = std::path::Path::new(&python).with_file_name("schemathesis");
    // A JSON Schema cannot say, for example, which properties there are: such values are refused with 422.
    let settings =
        "[checks]\npositive_data_acceptance.expected-statuses = ['2xx', '401', '403', '404', '409', '422']\n";
    workspace.write("schemathesis.toml", settings);
    let mut schemathesis = Command::new(schemathesis);
    schemathesis
        .args(["run", &format!("{}/api/openapi.json", service.url), "--header"])
        .arg(format!("Authorization: Bearer {TOKEN}"))
        .args(["--checks", "all", "--seed", "7", "--max-examples", "15", "--workers", "1", "--no-color"])
        // One worker: Python 3.11 may not parse source in two threads at a time. The first request for plugins compiles them.
        .args(["--request-timeout", "120"])
        // It does not end.
        .args(["--exclude-path", "/api/v1/events"])
        .current_dir(workspace.path());
    let tried = finish(&mut schemathesis, "schemathesis");
    let said = String::from_utf8_lossy(&tried.stdout).into_owned() + &String::from_utf8_lossy(&tried.stderr);
    assert!(tried.status.success(), "{said}");
}
