module github.com/gotrove/gotrove

go 1.26
