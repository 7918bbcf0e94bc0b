// Command etcd is etcd as its own module builds it: go.etcd.io/etcd/server/v3 has no main package.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
