"""What `lorewright` can be told, a module for each kind of thing."""
