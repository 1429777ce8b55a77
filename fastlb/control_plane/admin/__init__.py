"""The admin API: HTTP for operators and collectors, answered by the controller. It never touches a request."""
