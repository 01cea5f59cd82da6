"""Small applications that the acceptance tests run in processes of their own."""
