"""Where images come from: folders and tables, IRMA, the MRI archive, generated radiographs, splits."""
