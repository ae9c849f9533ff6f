//! `sluicebox init`.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::Error;
use crate::output::print;

/// The files of the example.
const FILES: [(&str, &str); 4] = [
    ("sluicebox.toml", include_str!("../example/sluicebox.toml")),
    ("schema.toml", include_str!("../example/schema.toml")),
    ("connections/loyalty.toml", include_str!("../example/loyalty.toml")),
    ("exchange/incoming/customers_1.csv", include_str!("../example/customers_1.csv")),
];

/// Creates a working folder with an example.
///
/// # Errors
/// If the folder is not empty or cannot be written to.
pub(crate) fn run(folder: &Path) -> Result<u8, Error> {
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::Usage(format!("{} is not empty", folder.display())));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(folder, error)),
    }
    for (name, content) in FILES {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, content))
            .map_err(|error| Error::io(&path, error))?;
    }
    let folder = folder.display();
    print(format!("{folder} is ready; try:"))?;
    print(format!("  sluicebox -C {folder} run"))?;
    print(format!("  sluicebox -C {folder} profile list"))?;
    Ok(0)
}
