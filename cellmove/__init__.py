"""cellmove: moves servers between the cells of an OpenStack nova cloud, one journalled step at a time."""
