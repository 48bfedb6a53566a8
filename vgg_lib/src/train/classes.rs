//! Classes are compared by name: a label is only a number, and means something else in a dataset with other classes.

use crate::data::Dataset;
use crate::model::Sequential;
use crate::text::{listed, same_name};
use crate::{Error, Result};

/// Whether both lists have the same names in the same order.
pub(super) fn same_classes(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_name(a, b))
}

/// Returns an error if the classes of `data`, which is called `what`, are not those that `whose` says, such as "the
/// training data has".
pub(super) fn check_classes(what: &str, data: &Dataset, whose: &str, classes: &[String]) -> Result<()> {
    let found = data.classes();
    if same_classes(found, classes) {
        return Ok(());
    }
    // A class without images does no harm.
    let unknown = found
        .iter()
        .enumerate()
        .find(|(label, name)| data.labels().contains(label) && !classes.iter().any(|class| same_name(class, name)));
    let help = match unknown {
        Some((_, name)) => format!("'{name}' is not one of them: use the same names"),
        None => "`with_classes(train.classes())` numbers its images by name".to_string(),
    };
    let (found, classes) = (listed(found, ", "), listed(classes, ", "));
    Err(Error::Name(format!("{what} has the classes {found}, but {whose} {classes}; {help}")))
}

impl Sequential {
    /// Why the labels of `data` stand for other classes of this model, if they do: the names are the model's, but not the
    /// numbers.
    pub(crate) fn misnumbered(&self, data: &Dataset) -> Option<String> {
        let known = self.classes()?;
        let all_known = data.classes().iter().all(|name| known.iter().any(|class| same_name(class, name)));
        let error = check_classes("the dataset", data, "the model was trained on", known).err()?;
        all_known.then(|| error.to_string())
    }
}
