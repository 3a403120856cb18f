"""What MkDocs needs to make a site of docs/: pages that the code writes."""
