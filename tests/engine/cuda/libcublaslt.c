/* cuBLASLt as far as engine/cuda/cublas.py goes, over memory of the host: column-major y = alpha weight^T x + beta c + bias, as the
   header says. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { NOT_SUPPORTED = 15, INVALID_VALUE = 7, HALF = 2, SINGLE = 0, SUMS_IN_SINGLE = 68, TRANSPOSE = 3, EPILOGUE = 7, BIAS = 8 };
typedef struct { int sums, scale, transposed, epilogue; void *bias; } Operation;
typedef struct { int kind; uint64_t rows, columns; int64_t stride; } Layout;
typedef struct { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; } Found;

int created, last_algorithm, refused_algorithm;
void *last_stream;

#define DESTROY(kind) int cublasLt##kind##Destroy(void *made) { created--; free(made); return 0; }
DESTROY(MatmulDesc) DESTROY(MatrixLayout) DESTROY(MatmulPreference)
int cublasLtCreate(void **handle) { created++; *handle = malloc(1); return 0; }
int cublasLtDestroy(void *handle) { created--; free(handle); return 0; }

int cublasLtMatmulDescCreate(Operation **made, int sums, int scale) {
    created++;
    *made = calloc(1, sizeof(Operation));
    (*made)->sums = sums, (*made)->scale = scale;
    return 0;
}
int cublasLtMatmulDescSetAttribute(Operation *operation, int attribute, const void *value, size_t size) {
    if (attribute == TRANSPOSE && size == 4) memcpy(&operation->transposed, value, 4);
    else if (attribute == EPILOGUE && size == 4) memcpy(&operation->epilogue, value, 4);
    else if (attribute == BIAS && size == 8) memcpy(&operation->bias, value, 8);
    else return INVALID_VALUE;
    return 0;
}
int cublasLtMatrixLayoutCreate(Layout **made, int kind, uint64_t rows, uint64_t columns, int64_t stride) {
    created++;
    *made = malloc(sizeof(Layout));
    **made = (Layout){kind, rows, columns, stride};
    return 0;
}
int cublasLtMatmulPreferenceCreate(size_t **made) { created++; *made = calloc(1, sizeof(size_t)); return 0; }
int cublasLtMatmulPreferenceSetAttribute(size_t *made, int attribute, const void *value, size_t size) {
    if (attribute != 1 || size != 8) return INVALID_VALUE;
    memcpy(made, value, 8);
    return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void *handle, Operation *operation, Layout *a, Layout *b, Layout *c, Layout *d,
                                   size_t *workspace, int wanted, Found *found, int *count) {
    if (!handle || operation->sums != SUMS_IN_SINGLE || operation->scale != SINGLE || c != d || !*workspace) return INVALID_VALUE;
    *count = 0;
    if (a->rows == 13) return NOT_SUPPORTED;
    for (int number = 0; number < wanted && number < 3; number++) {
        found[number].algorithm[0] = 100 + number;
        found[number].state = number == 1 ? NOT_SUPPORTED : 0;
        ++*count;
    }
    return 0;
}
static float at(const void *memory, const Layout *layout, uint64_t row, uint64_t column) {
    const uint64_t place = row + column * layout->stride;
    return layout->kind == HALF ? (float)((const _Float16 *)memory)[place] : ((const float *)memory)[place];
}
int cublasLtMatmul(void *handle, Operation *operation, const float *alpha, const void *a, Layout *la, const void *b, Layout *lb,
                   const float *beta, const void *c, Layout *lc, void *d, Layout *ld, const uint64_t *algorithm, void *workspace,
                   size_t size, void *stream) {
    if (!handle || !operation->transposed || la->rows != lb->rows || lc != ld || !size) return INVALID_VALUE;
    if (*beta != 0 && (*beta != 1 || ld->kind != SINGLE)) return INVALID_VALUE;
    if ((int)algorithm[0] == refused_algorithm) return NOT_SUPPORTED;
    last_algorithm = (int)algorithm[0], last_stream = stream;
    const Layout bias = {ld->kind, ld->rows, 1, ld->rows};
    for (uint64_t row = 0; row < ld->rows; row++)
        for (uint64_t column = 0; column < ld->columns; column++) {
            float sum = *beta ? at(c, lc, row, column) : 0;
            if (operation->epilogue != 1) sum += at(operation->bias, &bias, row, 0);
            for (uint64_t k = 0; k < la->rows; k++) sum += *alpha * at(a, la, k, row) * at(b, lb, k, column);
            if (operation->epilogue == 36) sum = 0.5f * sum * (1 + tanhf(0.7978846f * (sum + 0.044715f * sum * sum * sum)));
            else if (operation->epilogue != 4 && operation->epilogue != 1) return INVALID_VALUE;
            const uint64_t place = row + column * ld->stride;
            if (ld->kind == HALF) ((_Float16 *)d)[place] = (_Float16)sum;
            else ((float *)d)[place] = sum;
        }
    return 0;
}
